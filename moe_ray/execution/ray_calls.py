"""Calls into Ray with a deadline. Ray's own calls have none: they hang while its head or a raylet is stopped.

Every call runs on one thread, and the caller waits for it in a way that Ctrl-C and SIGTERM interrupt at once. The
thread lives as long as the process: Linux ends a local cluster's processes together with the thread that started them.
"""

import contextlib
import os
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NoReturn, ParamSpec, TypeVar

import psutil

from moe_ray.characters import whole_characters
from moe_ray.errors import RayUnresponsiveError, UserError

P = ParamSpec("P")
Result = TypeVar("Result")
# Says why Ray will never answer, given the seconds that a call has waited; None while it may.
Diagnose = Callable[[float], str | None]

DEFAULT_PATIENCE_S = 60.0
# While a run ends (an interrupt, an error), a call that does not return soon is left behind.
ENDING_PATIENCE_S = 5.0
SLICE_S = 0.25
MAX_REASON_CHARACTERS = 500
# Lines of Ray's errors that name its own objects, and say nothing to a person.
_RAY_IDS = re.compile(r"^\s*(class_name|actor_id|pid|name|namespace|ip|node_id): .*$", re.MULTILINE)


class _Work:
    """One call. A caller that gave up marks it as `abandoned`: then it is skipped if it has not started."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.done = threading.Event()
        self.abandoned = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        if not self.abandoned:
            try:
                self.result = self.function()
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                self.error = error
        self.done.set()


class _Caller:
    """The thread that calls Ray, one call after the other."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._last: _Work | None = None
        self._is_silent = False
        self.patience_s = DEFAULT_PATIENCE_S
        self.diagnose: Diagnose = lambda _waited_s: None
        threading.Thread(target=self._work, name="ray-calls", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        return self._last is not None and not self._last.done.is_set()

    def call(self, function: Callable[[], Any], patience_s: float) -> Any:
        if self._is_silent and self.is_busy:
            raise RayUnresponsiveError("an earlier call has not returned yet")
        self._is_silent = False
        self._last = work = _Work(function)
        self._queue.put(work)
        try:
            self._wait(work, patience_s)
        except BaseException:
            work.abandoned = True
            raise
        if work.error is not None:
            raise work.error
        return work.result

    def _wait(self, work: _Work, patience_s: float) -> None:
        waited_s = 0.0
        while True:
            before = time.monotonic()
            if work.done.wait(SLICE_S):
                return
            # A process that was stopped itself (Ctrl-Z, a laptop that slept) waited one slice, however long it took.
            waited_s += min(time.monotonic() - before, 2 * SLICE_S)
            reason = self.diagnose(waited_s)
            if reason is None and waited_s >= patience_s:
                reason = f"a call has not returned within {patience_s:g} s"
            if reason is not None:
                self._is_silent = True
                raise RayUnresponsiveError(reason)

    def _work(self) -> None:
        while True:
            self._queue.get().run()


_caller = cache(_Caller)


def call(function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Return `function(*args, **kwargs)`; raises `RayUnresponsiveError` when it does not return in time.

    After that, calls are refused at once for as long as the silent one has not returned.
    """
    caller = _caller()
    result: Result = caller.call(partial(function, *args, **kwargs), caller.patience_s)
    return result


def call_within(patience_s: float, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Do as `call` does, with another deadline."""
    result: Result = _caller().call(partial(function, *args, **kwargs), patience_s)
    return result


def call_at_end(
    function: Callable[..., object], *args: Any, patience_s: float = ENDING_PATIENCE_S, **kwargs: Any
) -> bool:
    """Call to clean up: briefly, and without an error. Returns False when Ray was silent or refused."""
    from ray.exceptions import RayError

    try:
        call_within(patience_s, function, *args, **kwargs)
    except (RayUnresponsiveError, RayError):
        return False
    return True


@contextlib.contextmanager
def watching(patience_s: float, diagnose: Diagnose) -> Iterator[None]:
    """Within this context, wait `patience_s` for a call, and less when `diagnose` has a reason to."""
    caller = _caller()
    before = caller.patience_s, caller.diagnose
    caller.patience_s, caller.diagnose = patience_s, diagnose
    try:
        yield
    finally:
        caller.patience_s, caller.diagnose = before


def check() -> None:
    """Raise `RayUnresponsiveError` when it is known that Ray will not answer, though no call waits."""
    reason = _caller().diagnose(0.0)
    if reason is not None:
        raise RayUnresponsiveError(reason)


def is_silent() -> bool:
    """True while a call into Ray is under way that nothing waits for any more."""
    return _caller.cache_info().currsize > 0 and _caller().is_busy


def end_process(code: int) -> NoReturn:
    """Exit with `code`, also while a call into Ray hangs: its exit handlers would wait for it forever."""
    if not is_silent():
        sys.exit(code)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def reason_of(error: BaseException) -> str:
    """Return one readable line of why something failed, with the cause that Ray wraps."""
    cause = getattr(error, "cause", None) or error
    text = _RAY_IDS.sub("", str(cause)).strip() or type(cause).__name__
    if not isinstance(cause, UserError):
        text = f"{type(cause).__name__}: {text}"
    return whole_characters(" ".join(text.split()))[:MAX_REASON_CHARACTERS]


CONNECT_TIMEOUT_S = 5.0
KNOCK_TIMEOUT_S = 1.0
LOOK_EVERY_S = 1.0
# A call that takes no longer than this says nothing about the head.
USUAL_S = 1.0
# A head that refuses connections has ended. It may come back (a cluster with fault tolerance), in this part of the time
# that a silent one has.
REFUSED_SHARE = 0.25
CORE_PROCESSES = ("gcs_server", "raylet")
END_TIMEOUT_S = 3.0


def knock(address: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Raise `OSError` when nothing accepts connections at host:port. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("not host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()


class LocalProcesses:
    """The processes of a Ray that this process starts: its children since this object was made, and theirs."""

    def __init__(self) -> None:
        self._before = set(psutil.Process().children())
        self._started: list[psutil.Process] | None = None

    def note(self) -> None:
        """Say that all of them have been started: later children are not Ray's."""
        self._started = self._new()

    def ended(self) -> str | None:
        """Return the name of an indispensable one that has ended, None where all live."""
        return next((name for name, process in self._named() if _has_ended(process)), None)

    def end(self) -> None:
        """End those that are left, also when they are stopped."""
        started = self._new() if self._started is None else self._started
        doomed = list(started)
        for process in started:
            with contextlib.suppress(psutil.Error):
                doomed += process.children(recursive=True)
        for process in doomed:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(doomed, timeout=END_TIMEOUT_S)

    def _new(self) -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if child not in self._before]

    def _named(self) -> list[tuple[str, psutil.Process]]:
        named = []
        for process in self._started or ():
            with contextlib.suppress(psutil.Error):
                named += [(process.name(), process)]
        return [(name, process) for name, process in named if name in CORE_PROCESSES]


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Diagnosis:
    """Finds out, while a call into Ray waits, whether Ray can answer at all."""

    def __init__(self, head: str, processes: LocalProcesses, patience_s: float) -> None:
        self._head = head
        self._processes = processes
        self._patience_s = patience_s
        self._refused_since: float | None = None
        self._next_look = 0.0

    def __call__(self, waited_s: float) -> str | None:
        """Return why no answer will come, None while one may. `waited_s` is 0 where no call waits."""
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + LOOK_EVERY_S
        ended = self._processes.ended()
        if ended is not None:
            return f"its process {ended} has ended"
        if waited_s < USUAL_S or not self._refuses():
            self._refused_since = None
            return None
        self._refused_since = self._refused_since or time.monotonic()
        if time.monotonic() - self._refused_since >= REFUSED_SHARE * self._patience_s:
            return f"its head at {self._head} has ended (it refuses connections)"
        return None

    def _refuses(self) -> bool:
        try:
            knock(self._head, KNOCK_TIMEOUT_S)
        except OSError as error:
            return isinstance(error, ConnectionRefusedError)
        return False
