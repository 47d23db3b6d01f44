"""Supervisor process of a model server: starts it, and stops it with all its children when the owner exits.

    python -P moe_ray/engines/server/keeper.py LOG_FILE STOP_TIMEOUT_S PROGRAM ARGUMENT...

The owner holds the other end of this process's standard input. When that end closes, by a call or because the owner
exited for any reason, the server gets SIGTERM, then SIGKILL. The keeper leaves its owner's process tree first: Ray
ends an actor's children with it, and the keeper must outlive its owner by the seconds that this takes. It adopts every
process that its server's children leave behind, so none can escape it.

It writes two lines to its standard output: `keeper PID` (or `failed REASON`), and `exited STATUS` when the server has
ended. The output closes when nothing of the server is left.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.02

_libc = ctypes.CDLL(None, use_errno=True)


def main(log_path: str, stop_timeout_s: float, command: list[str]) -> None:
    """Run `command` until it ends or the owner is gone, and leave nothing of it behind."""
    if os.fork():
        os._exit(0)
    os.setsid()
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the owner may have blocked signals that are needed here
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    children_end = _woken_by_children()
    try:
        server = _started(log_path, command)
    except OSError as error:
        _say(f"failed {error.strerror}")
        return
    _say(f"keeper {os.getpid()}")
    status = _watch(server, children_end)
    _say(f"exited {'by request' if status is None else status}")
    _end_all(stop_timeout_s)


def _started(log_path: str, command: list[str]) -> subprocess.Popen[bytes]:
    with Path(log_path).open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_prepare_server,
        )


def _prepare_server() -> None:
    """Runs in the server's process: it takes signals as usual, and does not outlive a keeper that is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _woken_by_children() -> socket.socket:
    """Return a socket that can be read when a child has ended."""
    ours, pythons = socket.socketpair()
    for end in (ours, pythons):
        end.setblocking(False)
    signal.set_wakeup_fd(pythons.detach())
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return ours


def _watch(server: subprocess.Popen[bytes], children_end: socket.socket) -> int | None:
    """Wait until the server has ended, and return its status; or until the owner is gone: None."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        selector.register(children_end, selectors.EVENT_READ)
        while True:
            # A child may have ended before the selector was registered.
            if server.pid in (ended := _reaped()):
                return ended[server.pid]
            for key, _ in selector.select():
                if key.fileobj is children_end:
                    children_end.recv(4096)
                elif not os.read(sys.stdin.fileno(), 4096):
                    return None


def _reaped() -> dict[int, int]:
    """Take in every child that has ended, adopted ones too; return their exit statuses by process id."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def _end_all(stop_timeout_s: float) -> None:
    """End every process that came of the server, and itself: asked first, then killed."""
    deadline = time.monotonic() + stop_timeout_s
    _signal_all(signal.SIGTERM)
    while _has_children() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    while _has_children():
        _signal_all(signal.SIGKILL)
        time.sleep(POLL_S)


def _has_children() -> bool:
    _reaped()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _signal_all(number: signal.Signals) -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _say(line: str) -> None:
    try:
        os.write(sys.stdout.fileno(), f"{line}\n".encode())
    except OSError:
        # The owner is gone.
        return


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
