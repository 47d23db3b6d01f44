"""Run a function over items as Ray tasks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_tasks(function: Callable[[Item], Result], items: Sequence[Item], *, num_cpus: float) -> Iterator[Result]:
    """Yield `function(item)` for each item, in their order, computed as Ray tasks of `num_cpus` cores each.

    An error in a task is raised here, with the task's own exception as its cause.
    """
    remote: Any = ray.remote
    task = remote(num_cpus=num_cpus, max_retries=1)(function)
    for ref in [task.remote(item) for item in items]:
        yield ray.get(ref)
