"""Run functions as Ray tasks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import ray
from ray.exceptions import RayTaskError

from moe_ray.config.schema import RuntimeConfig
from moe_ray.execution import interruption

Item = TypeVar("Item")
Result = TypeVar("Result")

# A wait inside Ray's native part ends no later than this, so that Ctrl-C is heard.
POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """What a task takes of a node."""

    num_cpus: float
    num_gpus: float


def task_size(runtime: RuntimeConfig, gpus: float | Literal["auto"]) -> TaskSize:
    """Return what a task of `gpus` takes on the cluster that this process has joined; "auto": a GPU if there is one.

    Without a GPU it takes the threads of a model on CPU, or all cores of the largest node where those are fewer.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    most_cpus, most_gpus = (max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU"))
    wanted = (1.0 if most_gpus and runtime.gpus != 0 else 0.0) if gpus == "auto" else gpus
    return TaskSize(num_cpus=min(1 if wanted else runtime.cpu_threads, most_cpus), num_gpus=wanted)


def map_tasks(function: Callable[[Item], Result], items: Sequence[Item], *, num_cpus: float) -> Iterator[Result]:
    """Yield `function(item)` for each item, in their order, computed as Ray tasks of `num_cpus` cores each.

    An error in a task is raised here as it was there.
    """
    remote: Any = ray.remote
    task = remote(num_cpus=num_cpus, max_retries=1)(function)
    for ref in [task.remote(item) for item in items]:
        yield _result(ref)


def stream_task(function: Callable[[Item], Iterator[Result]], item: Item, size: TaskSize) -> Iterator[Result]:
    """Yield what the generator `function(item)` yields, as it comes, computed as one Ray task.

    An error in the task is raised here as it was there; a worker or node that dies raises Ray's own error. When the
    caller leaves early (an error, Ctrl-C), the task is ended.
    """
    remote: Any = ray.remote
    task = remote(num_cpus=size.num_cpus, num_gpus=size.num_gpus, max_retries=0, num_returns="streaming")(function)
    stream = task.remote(item)
    try:
        while True:
            ready, _ = ray.wait([stream], timeout=POLL_S)
            interruption.check()
            if ready:
                try:
                    ref = next(stream)
                except StopIteration:
                    return
                yield _result(ref)
    finally:
        ray.cancel(stream, force=True)


def _result(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        # What Ray raises is of a type made of both, whose text is the task's whole traceback.
        raise error.cause from error
