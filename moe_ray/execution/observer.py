"""Progress events of a run, for the command line and for tests."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Protocol

from moe_ray.config.schema import RuntimeConfig

if TYPE_CHECKING:
    from moe_ray.execution.cluster import Cluster


class RunObserver(Protocol):
    """Receives progress events, from one thread, in their order."""

    def stage(self, text: str) -> None:
        """A new part of the run starts."""

    def notice(self, text: str) -> None:
        """An event that the user should know of, such as a lost worker that is replaced."""

    def training(self, step: int, num_steps: int, detail: str) -> None:
        """The router's training has done `step` of at most `num_steps`."""

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None:
        """The cells done and in all, by model."""

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:
        """A replica is starting, loading, ready, unloading, gone, lost or failed."""

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:
        """A shard's answers are on disk."""

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        """Work was given up."""


class LoggingObserver(RunObserver):
    """Writes a run's progress to the log: stages at INFO, notices at WARNING, the rest at DEBUG."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def stage(self, text: str) -> None:
        self._logger.info(text)

    def notice(self, text: str) -> None:
        self._logger.warning(text)

    def training(self, step: int, num_steps: int, detail: str) -> None:
        self._logger.debug("step %d of %d, %s", step, num_steps, detail)

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None:
        for model, (done, total) in totals.items():
            self._logger.debug("%s: %d of %d answers are there", model, done, total)

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:
        self._logger.debug("%s of %s: %s %s", replica, model, state, detail)

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:
        self._logger.debug("%s: %d more answers, %d tokens", model, num_cells, num_tokens)

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        self._logger.warning("%s: %d answers given up: %s", model, num_cells, reason)


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
