"""One command at a time works on a run directory.

The lock is `flock` on the file .lock, which falls with the process. Where the file system cannot lock, or locks on one
node only, a lease replaces it (`moe_ray.store.lease`).
"""

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TextIO

from moe_ray.errors import RunDirectoryError
from moe_ray.mounts import mount_of
from moe_ray.store.holder import Holder, parse_holder, this_process
from moe_ray.store.inside import inside
from moe_ray.store.lease import held_by, leased
from moe_ray.store.run_directory import RunDirectory

# NFS keeps the lock of a crashed node until its lease ends, which is 90 s by default.
EARLIER_LIFE_LIMIT_S = 120.0
POLL_S = 0.5
MAX_CHARACTERS = 4096
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_CANNOT_LOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.EINVAL})

OnNotice = Callable[[str], object]


@contextmanager
def exclusive(run: RunDirectory, on_notice: OnNotice = lambda _: None) -> Iterator[None]:
    """Hold the run directory for this process; the lock falls with the process, however it ends.

    `on_notice` is called with a sentence for the user where a lease replaces the lock, or where this life of a SLURM
    job waits for its earlier one.

    Raises `RunDirectoryError`, naming the other process, when the directory is held already.
    """
    mine = this_process()
    with os.fdopen(_open(run), "r+", encoding="utf-8", errors="replace") as file:
        reason = _locked(run, file, mine, on_notice)
        if reason is None:
            _write_holder(file, mine)
            yield
            return
        on_notice(
            f"The file system of {run.path} cannot lock files for all nodes ({reason}): a lease file stands in for the "
            "lock. Start no second command on this run on another machine."
        )
        with leased(run, mine, on_notice):
            yield


def _locked(run: RunDirectory, file: TextIO, mine: Holder, on_notice: OnNotice) -> str | None:
    """Lock `file`, and return None, or why the lock does not exclude other nodes. Raises `RunDirectoryError`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _CANNOT_LOCK:
            return error.strerror
        if error.errno not in _HELD:
            raise RunDirectoryError(
                f"cannot be locked: {error.strerror}", where=str(run.path), remedy="choose another --results-dir"
            ) from error
        _await_earlier_life(run, file, mine, on_notice)
    mount = mount_of(run.path)
    option = mount.local_lock_option if mount is not None else None
    return f"mounted with {option}" if option is not None else None


def _await_earlier_life(run: RunDirectory, file: TextIO, mine: Holder, on_notice: OnNotice) -> None:
    """Wait for the lock of an earlier life of this SLURM job, within limits; refuse any other one at once."""
    text = file.read(MAX_CHARACTERS).strip()
    holder = parse_holder(text)
    who = str(holder or text or "unknown")
    if holder is None or not holder.is_earlier_life_of(mine):
        raise held_by(run, who)
    on_notice(
        f"An earlier life of this job ({who}) still holds {run.path}: waiting for its lock, at most "
        f"{EARLIER_LIFE_LIMIT_S:g} s."
    )
    deadline = time.monotonic() + EARLIER_LIFE_LIMIT_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _HELD:
                break
    raise held_by(run, who)


def _write_holder(file: TextIO, mine: Holder) -> None:
    file.seek(0)
    file.truncate(0)
    file.write(json.dumps(asdict(mine)))
    file.flush()


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
