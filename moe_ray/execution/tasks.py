"""Run functions as Ray tasks."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, RayTaskError, WorkerCrashedError

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import CapacityError
from moe_ray.execution import interruption

Item = TypeVar("Item")
Result = TypeVar("Result")

# A wait inside Ray's native part ends no later than this, so that Ctrl-C is heard.
POLL_S = 0.5
WORKER_LOST = (WorkerCrashedError, NodeDiedError, LocalRayletDiedError)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """What a task takes of a node, and how many may run at once (None: as many as the cluster has room for)."""

    num_cpus: float
    num_gpus: float
    max_running: int | None = None


def task_size(runtime: RuntimeConfig, gpus: float | Literal["auto"]) -> TaskSize:
    """Return what a task of `gpus` takes on the cluster that this process has joined; "auto": a GPU if there is one.

    Without a GPU it takes the threads of a model on CPU, or all cores of the largest node where those are fewer. No
    more GPUs are in use at once than `runtime.gpus`. Raises `CapacityError` for more of a GPU than any node has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
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


def map_tasks(function: Callable[[Item], Result], items: Sequence[Item], *, num_cpus: float) -> Iterator[Result]:
    """Yield `function(item)` for each item, in their order, computed as Ray tasks of `num_cpus` cores each.

    An error in a task is raised here as it was there.
    """
    remote: Any = ray.remote
    task = remote(num_cpus=num_cpus, max_retries=1)(function)
    for ref in [task.remote(item) for item in items]:
        yield _result(ref)


def stream_task(function: Callable[[Item], Iterator[Result]], item: Item, size: TaskSize) -> Iterator[Result]:
    """Yield what the generator `function(item)` yields, as it comes, computed as one Ray task: see `stream_tasks`."""
    return stream_tasks(function, [item], size)


def stream_tasks(
    function: Callable[[Item], Iterator[Result]], items: Sequence[Item], size: TaskSize, *, max_attempts: int = 1
) -> Iterator[Result]:
    """Yield what the generators `function(item)` yield, as it comes, each computed as one Ray task of `size`.

    As many run at once as `size` allows. A task whose worker or node dies is begun anew, from `function`'s first line,
    until it has had `max_attempts`; then Ray's own error is raised. An error in a task is raised here as it was there.
    When this ends early (an error, Ctrl-C, a caller that leaves), the tasks that still run are ended.
    """
    remote: Any = ray.remote
    task = remote(num_cpus=size.num_cpus, num_gpus=size.num_gpus, max_retries=0, num_returns="streaming")(function)
    waiting = deque((item, 1) for item in items)
    running: dict[Any, tuple[Item, int]] = {}
    try:
        while waiting or running:
            while waiting and (size.max_running is None or len(running) < size.max_running):
                item, num_attempts = waiting.popleft()
                running[task.remote(item)] = (item, num_attempts)
            ready: list[Any] = ray.wait(list(running), timeout=POLL_S)[0]
            interruption.check()
            for stream in ready:
                try:
                    result = _result(next(stream))
                except Exception as ended:
                    item, num_attempts = running.pop(stream)
                    if isinstance(ended, WORKER_LOST) and num_attempts < max_attempts:
                        waiting.append((item, num_attempts + 1))
                    elif not isinstance(ended, StopIteration):
                        raise
                else:
                    running[stream] = running.pop(stream)  # at the end: those before it come first in the next wait
                    yield result
    finally:
        # Only those that have not ended by themselves: the worker of one that has may be at another task by now, which
        # Ray would end in its place.
        for stream in running:
            ray.cancel(stream, force=True)


def _result(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        # What Ray raises is of a type made of both, whose text is the task's whole traceback.
        raise error.cause from error
