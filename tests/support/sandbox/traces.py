"""What an attack might leave on a machine, looked for by name."""

import ctypes
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from moe_ray.scoring.sandbox.guest import kernel
from tests.support.sandbox.attacks.attack import KEY, MARKER

FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/dev/mqueue"), Path(os.__file__).parent)
END_S = 1.0
LISTS = ("/proc/self/mountinfo", "/proc/net/unix", "/proc/keys")


@contextmanager
def heir() -> Iterator[set[int]]:
    """Make this process the parent of every orphan below it, so that nothing that it starts can hide.

    Yields the processes that are below it already.
    """
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield {child.pid for child in psutil.Process().children(recursive=True)}
    finally:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)


def traces(outside: Path, known: set[int]) -> list[str]:
    """Return what was left: files, mounts, sockets, keys, System V and POSIX objects, child processes.

    `outside` is the folder that attacks were offered, `known` what `heir()`, which must hold, gave.
    """
    folders = [outside, *FOLDERS, Path(tempfile.gettempdir()), Path.home(), Path.cwd(), Path("/")]
    found = [str(path) for folder in dict.fromkeys(folders) for path in _named(folder, everything=folder == outside)]
    found += [f"{name}: {line}" for name in LISTS for line in _lines(name) if MARKER in line]
    system_v = [(kind, line) for kind in ("shm", "sem", "msg") for line in _lines(f"/proc/sysvipc/{kind}")]
    found += [f"System V {kind}: {line}" for kind, line in system_v if line.split()[:1] == [str(KEY)]]
    if ctypes.CDLL(None).mq_unlink(f"/{MARKER}".encode()) == 0:
        found.append("a POSIX message queue")
    return found + [f"process {child.pid}: {child.status()}" for child in _left(known)]


def _left(known: set[int]) -> list[psutil.Process]:
    """Return the processes that are not gone within a second of the last verdict; the dead ones are buried."""
    until = time.monotonic() + END_S
    while True:
        left = [child for child in psutil.Process().children(recursive=True) if child.pid not in known]
        for child in left:
            with suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)
        left = [child for child in left if child.is_running()]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.01)


def _named(folder: Path, *, everything: bool) -> list[Path]:
    if not os.access(folder, os.R_OK | os.X_OK):
        return []
    return [path for path in folder.iterdir() if everything or path.name.startswith(MARKER)]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
