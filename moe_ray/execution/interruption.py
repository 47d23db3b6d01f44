"""Ctrl-C and SIGTERM, remembered. An interrupt that is raised inside native code or a callback can get lost there."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


@contextmanager
def listening() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM (a job that is stopped, a time limit) raise `KeyboardInterrupt`, and be remembered."""
    _asked.clear()
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def check() -> None:
    """Raise `KeyboardInterrupt` if somebody asked to stop since `listening` began, though the first was swallowed."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt
