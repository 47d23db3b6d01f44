"""Run functions as Ray tasks. A task that loses its worker or its node is run again, a bounded number of times."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import CapacityError, TaskLostError
from moe_ray.execution import interruption, ray_calls
from moe_ray.execution.cluster import living_nodes

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_S = 0.5
NODE_POLL_S = 2.0
# A task waits this long for a node that could run it, when none is left.
STRANDED_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """What a task takes of a node, and how many may run at once (None: as many as the cluster has room for)."""

    num_cpus: float
    num_gpus: float
    max_running: int | None = None

    def __str__(self) -> str:
        return f"{self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What happens to a task that lost its worker. `name` names an item's task; `on_retry` takes one line of text."""

    max_attempts: int = 1
    name: Callable[[Any], str] = lambda _item: "a task"
    on_retry: Callable[[str], None] = lambda _message: None

    def next_attempt(self, item: Any, num_attempts: int, lost: BaseException) -> int:
        """Return the next attempt's number, and report the retry; raises `TaskLostError` after the last attempt."""
        name, reason = self.name(item), ray_calls.reason_of(lost)
        if num_attempts >= self.max_attempts:
            times = "1 attempt" if num_attempts == 1 else f"{num_attempts} attempts"
            raise TaskLostError(f"{name} lost its worker in {times}; the last: {reason}") from lost
        self.on_retry(
            f"{name} lost its worker; it is started again, attempt {num_attempts + 1} of {self.max_attempts} ({reason})"
        )
        return num_attempts + 1


NO_RETRIES = Retries()


def task_size(runtime: RuntimeConfig, gpus: float | Literal["auto"]) -> TaskSize:
    """Return what a task of `gpus` takes on the cluster that this process has joined; "auto": a GPU if there is one.

    Without a GPU it takes the threads of a model on CPU, or all cores of the largest node where those are fewer. No
    more GPUs are in use at once than `runtime.gpus`. Raises `CapacityError` for more of a GPU than any node has.
    """
    nodes = _alive()
    most_cpus, most_gpus = (max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU"))
    allowed = most_gpus if runtime.gpus == "auto" else min(most_gpus, runtime.gpus)
    wanted = min(1.0, allowed) if gpus == "auto" else gpus
    if wanted > allowed:
        raise CapacityError(
            f"a task of {wanted:g} GPUs can never start: {allowed:g} of a node's may be used",
            where="gpus",
            remedy="lower gpus, raise runtime.gpus, or start a node with GPUs",
        )
    return TaskSize(
        num_cpus=min(1 if wanted else runtime.cpu_threads, most_cpus),
        num_gpus=wanted,
        max_running=None if not wanted or runtime.gpus == "auto" else int(runtime.gpus / wanted),
    )


def _alive() -> list[Mapping[str, float]]:
    """What each node that is alive has in all."""
    return [node["Resources"] for node in living_nodes()]


def map_tasks(
    function: Callable[[Item], Result], items: Sequence[Item], *, num_cpus: float, retries: Retries = NO_RETRIES
) -> Iterator[Result]:
    """Yield `function(item)` for each item, as it is there, computed as Ray tasks of `num_cpus` cores each.

    An error in a task is raised here as it was there; `retries` as in `stream_tasks`.
    """

    def once(item: Item) -> Iterator[Result]:
        yield function(item)

    return stream_tasks(once, items, TaskSize(num_cpus=num_cpus, num_gpus=0), retries)


def stream_task(
    function: Callable[[Item], Iterator[Result]], item: Item, size: TaskSize, retries: Retries = NO_RETRIES
) -> Iterator[Result]:
    """Yield what the generator `function(item)` yields, as it comes, computed as one Ray task: see `stream_tasks`."""
    return stream_tasks(function, [item], size, retries)


def stream_tasks(
    function: Callable[[Item], Iterator[Result]],
    items: Sequence[Item],
    size: TaskSize,
    retries: Retries = NO_RETRIES,
) -> Iterator[Result]:
    """Yield what the generators `function(item)` yield, as it comes, each computed as one Ray task of `size`.

    As many run at once as `size` allows. A task whose worker or node dies (also one that the system ended because
    memory ran out) is run again, from `function`'s first line, until it has had `retries.max_attempts`; then
    `TaskLostError` is raised. An error in a task is raised here as it was there. When this ends early (an error,
    Ctrl-C, a caller that leaves), the tasks that still run are ended.
    """
    remote: Any = ray.remote
    task = remote(num_cpus=size.num_cpus, num_gpus=size.num_gpus, max_retries=0, num_returns="streaming")(function)
    waiting = deque((item, 1) for item in items)
    running: dict[Any, tuple[Item, int]] = {}
    places = _Places(size)
    try:
        while waiting or running:
            while waiting and (size.max_running is None or len(running) < size.max_running):
                item, num_attempts = waiting.popleft()
                running[ray_calls.call(task.remote, item)] = (item, num_attempts)
            ready: list[Any] = ray_calls.call(ray.wait, list(running), timeout=POLL_S)[0]
            interruption.check()
            places.check()
            for stream in ready:
                item, num_attempts = running.pop(stream)
                try:
                    result = ray_calls.call(_next, stream)
                except StopIteration:
                    continue
                except RayError as lost:
                    waiting.append((item, retries.next_attempt(item, num_attempts, lost)))
                    continue
                running[stream] = (item, num_attempts)  # at the end: those before it come first in the next wait
                yield result
    finally:
        # Only those that have not ended by themselves: the worker of one that has may be at another task by now, which
        # Ray would end in its place.
        for stream in running:
            ray_calls.call_at_end(ray.cancel, stream, force=True)


def _next(stream: Any) -> Any:
    """Return the next result of a task, or raise what the task raised, or the `RayError` of a task that was lost."""
    try:
        return ray.get(next(stream))
    except RayTaskError as error:
        # What Ray raises is of a type made of both, whose text is the task's whole traceback.
        raise error.cause from error


class _Places:
    """Watches that some node could run a task of `size`. This also asks Ray's head for a sign of life."""

    def __init__(self, size: TaskSize) -> None:
        self._size = size
        self._next_look = time.monotonic() + NODE_POLL_S
        self._missing_since: float | None = None

    def check(self) -> None:
        """Raise `TaskLostError` when no node could run a task for `STRANDED_S`; a new node may come meanwhile."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + NODE_POLL_S
        if any(self._fits(node) for node in _alive()):
            self._missing_since = None
            return
        self._missing_since = self._missing_since or now
        if now - self._missing_since > STRANDED_S:
            raise TaskLostError(f"no node is left that could run a task of {self._size}")

    def _fits(self, node: Mapping[str, float]) -> bool:
        return node.get("CPU", 0) >= self._size.num_cpus and node.get("GPU", 0) >= self._size.num_gpus
