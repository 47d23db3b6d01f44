"""One command at a time works on a run directory.

The lock is `flock` on the file .lock, which falls with the process. A file system that cannot lock (some network and
FUSE file systems) gets a lease instead (`moe_ray.store.lock`).
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from moe_ray.errors import RunDirectoryError
from moe_ray.store.inside import inside
from moe_ray.store.run_directory import RunDirectory

RENEW_S = 15.0
STALE_S = 120.0
MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease."""

    owner: str
    host: str
    pid: int

    @property
    def is_gone(self) -> bool:
        """True when its process is known to have ended."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            return False
        return False


@contextmanager
def leased(run: RunDirectory) -> Iterator[None]:
    """Hold the lease of `run`, and renew it. Raises `RunDirectoryError` when another process holds it."""
    path = inside(run.path, ".lease")
    mine = Holder(owner=secrets.token_hex(16), host=socket.gethostname(), pid=os.getpid())
    _take(run, path, mine)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, done), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        if read_holder(path) == mine:
            path.unlink(missing_ok=True)


def held_by(run: RunDirectory, who: str) -> RunDirectoryError:
    """Return the error for a run directory that another process holds."""
    return RunDirectoryError(
        f"another moe-ray process ({who}) is working in this directory",
        where=str(run.path),
        remedy="wait for it, stop it, or choose another --results-dir",
    )


def _take(run: RunDirectory, path: Path, mine: Holder) -> None:
    if _create(path, mine) or (_is_stale(path, read_holder(path)) and _replace(run, path, mine)):
        return
    holder = read_holder(path)
    raise held_by(run, f"{holder.host}, pid {holder.pid}" if holder else "unknown")


def _replace(run: RunDirectory, path: Path, mine: Holder) -> bool:
    """Replace a stale lease, and say whether it is ours now. One process at a time may: the one that makes a folder."""
    claim = path.with_name(".lease.claim")
    try:
        claim.mkdir()
    except FileExistsError:
        if _is_old(claim):  # its process was killed in between; the next command can go on
            with suppress(OSError):
                claim.rmdir()
        raise held_by(run, "one that replaces the lease of an ended process") from None
    try:
        if not _is_stale(path, read_holder(path)):
            return False
        path.unlink(missing_ok=True)
        return _create(path, mine)
    finally:
        claim.rmdir()


def _create(path: Path, mine: Holder) -> bool:
    """Write the lease, and say whether it is ours; False when there is one already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(mine), file)
        file.flush()
        os.fsync(descriptor)
    return True


def read_holder(path: Path) -> Holder | None:
    """Return who holds the lease; None when there is none, or one that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            value = json.loads(file.read(MAX_BYTES))
        return Holder(owner=str(value["owner"]), host=str(value["host"]), pid=int(value["pid"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _is_stale(path: Path, holder: Holder | None) -> bool:
    return (holder is not None and holder.is_gone) or _is_old(path)


def _is_old(path: Path) -> bool:
    """True when `path` was not touched for a while, or is gone."""
    try:
        return _file_system_time(path.parent) - path.lstat().st_mtime > STALE_S
    except FileNotFoundError:
        return True


def _file_system_time(folder: Path) -> float:
    """The time by the clock that stamps the files of `folder`: another machine's, on a network file system."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        return probe.lstat().st_mtime
    finally:
        probe.unlink()


def _renew(path: Path, done: threading.Event) -> None:
    while not done.wait(RENEW_S):
        with suppress(OSError):
            os.utime(path, follow_symlinks=False)


_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_CANNOT_LOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.EINVAL})


@contextmanager
def exclusive(run: RunDirectory, on_notice: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """Hold the run directory for this process; the lock falls with the process, however it ends.

    `on_notice` is called with a sentence for the user where a lease has to do instead of a lock.

    Raises `RunDirectoryError`, naming the other process, when the directory is held already.
    """
    descriptor = _open(run)
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise held_by(run, file.read(200).strip() or "unknown") from error
            if error.errno not in _CANNOT_LOCK:
                raise RunDirectoryError(
                    f"cannot be locked: {error.strerror}", where=str(run.path), remedy="choose another --results-dir"
                ) from error
            on_notice(
                f"The file system of {run.path} cannot lock files ({error.strerror}): a lease file stands in for the "
                "lock. Start no second command on this run on another machine."
            )
            with leased(run):
                yield
            return
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield


def _open(run: RunDirectory) -> int:
    """Open .lock for reading and writing; never another file under that name."""
    path = inside(run.path, ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot be opened: {error.strerror}", where=str(path), remedy="remove it, or make the directory writable"
        ) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise RunDirectoryError("is not a file of its own", where=str(path), remedy="remove it")
    return descriptor
