"""Calls to an API: the two ways in which one fails, and calls that end together."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from moe_ray.errors import EngineLostError

GIVEN_UP = "given up, because another request was"

ResultT = TypeVar("ResultT")


class RequestRefusedError(Exception):
    """The API answered that it will not do this request; asking again would not help."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message if status is None else f"{status}: {message}")
        self.status = status


class UnansweredError(EngineLostError):
    """All tries of a request failed. `status` is the last try's, None where there was no answer at all.

    `is_reply` says that the last try brought a reply, but one that cannot be read.
    """

    def __init__(self, message: str, status: int | None = None, *, is_reply: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.is_reply = is_reply


class CallGroup:
    """Calls of one client that end together: once stopped, those under way give up and further ones are refused.

    The client itself and calls outside of the group go on.
    """

    def __init__(self) -> None:
        self._futures: set[Future[Any]] = set()
        self._is_stopped = False
        self._lock = threading.Lock()

    def run(self, start: Callable[[], Future[ResultT]]) -> ResultT:
        """Start a call and wait for its result. Raises `UnansweredError` when the group is stopped."""
        with self._lock:
            if self._is_stopped:
                raise UnansweredError(GIVEN_UP)
            future = start()
            self._futures.add(future)
        try:
            return future.result()
        except CancelledError as error:
            raise UnansweredError(GIVEN_UP) from error
        finally:
            with self._lock:
                self._futures.discard(future)

    def stop(self) -> None:
        """Let all calls of the group give up."""
        with self._lock:
            self._is_stopped = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()
