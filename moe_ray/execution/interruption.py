"""SIGINT and SIGTERM are recorded, since an interrupt that is raised in native code or in a callback can get lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked = threading.Event()
_terminated = threading.Event()


def exit_at_once() -> None:
    """Let Ctrl-C and SIGTERM end this process silently, for the time outside `listening`.

    Nothing is under way then that would have to be ended. An exception would not do: imports turn it into others.
    """
    for number in _SIGNALS:
        signal.signal(number, _exit)


@contextmanager
def listening() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM (a job that is stopped, a time limit) raise `KeyboardInterrupt`, and be remembered.

    An error that comes after such a signal is taken for its consequence: native code and imports turn one into others.
    """
    _asked.clear()
    _terminated.clear()
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    report_unraisable = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if lost.exc_type is KeyboardInterrupt else report_unraisable(lost)
    try:
        yield
    except Exception as error:
        if _asked.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = report_unraisable
        _asked.clear()


def check() -> None:
    """Raise `KeyboardInterrupt` if a signal arrived since `listening` was entered and its exception got lost."""
    if _asked.is_set():
        raise KeyboardInterrupt


def accept() -> None:
    """Go on after Ctrl-C, which is then forgotten. Raises `KeyboardInterrupt` after SIGTERM, which ends the command."""
    if _terminated.is_set():
        raise KeyboardInterrupt
    _asked.clear()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _asked.set()
    if number == signal.SIGTERM:
        _terminated.set()
    raise KeyboardInterrupt


def _exit(_number: int, _frame: FrameType | None) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
            stream.flush()
    os._exit(EXIT_INTERRUPTED)
