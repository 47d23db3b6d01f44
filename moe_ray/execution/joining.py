"""Join Ray when it is first needed. Loads neither Ray nor anything heavy before that."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from moe_ray.config.schema import RuntimeConfig
from moe_ray.execution.observer import RunObserver

if TYPE_CHECKING:
    from moe_ray.execution.cluster import Cluster

Join = Callable[[], "Cluster"]


@contextmanager
def joining(runtime: RuntimeConfig, observer: RunObserver) -> Iterator[Join]:
    """Yield what joins Ray when it is called first, and leave Ray at the end: a run with nothing to do never joins."""
    with ExitStack() as stack:

        @cache
        def join() -> "Cluster":
            from moe_ray.execution.cluster import connect

            observer.stage("Joining Ray")
            return stack.enter_context(connect(runtime))

        yield join
