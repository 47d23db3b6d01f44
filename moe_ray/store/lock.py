"""One command at a time works on a run directory.

The lock is `flock` on the file .lock, which falls with the process. A file system that cannot lock (some network and
FUSE file systems) gets a lease instead (`moe_ray.store.lease`).
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moe_ray.errors import RunDirectoryError
from moe_ray.store.inside import inside
from moe_ray.store.lease import held_by, leased
from moe_ray.store.run_directory import RunDirectory

_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_CANNOT_LOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.EINVAL})


@contextmanager
def exclusive(run: RunDirectory, tell: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """Hold the run directory for this process; the lock falls with the process, however it ends.

    `tell` is called with a sentence for the user where a lease has to do instead of a lock.

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
            tell(
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
