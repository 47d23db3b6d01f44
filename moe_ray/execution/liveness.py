"""Whether Ray can still answer: the head's port, and the processes of a cluster that this run started."""

import contextlib
import socket
import time

import psutil

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
