"""One command at a time works on a run directory, or several that share it.

The lock is `flock` on the file .lock, which falls with the process: exclusive, or shared. Where the file system cannot
lock, or locks on one node only, a lease replaces it (`moe_ray.store.lease`), and processes that share the run are known
by their records (`moe_ray.store.members`).
"""

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import TextIO

from moe_ray.errors import RunDirectoryError
from moe_ray.mounts import mount_of
from moe_ray.store.holder import Holder, parse_holder, this_process
from moe_ray.store.inside import inside
from moe_ray.store.lease import held_by, is_stale, leased, read_holder
from moe_ray.store.members import Member, clear, require_no_member, shared_by
from moe_ray.store.run_directory import RunDirectory
from moe_ray.store.work_leases import WorkLeases

# NFS keeps the lock of a crashed node until its lease ends, which is 90 s by default.
EARLIER_LIFE_LIMIT_S = 120.0
POLL_S = 0.5
# A process that joins others has the lock to itself for a moment.
JOIN_LIMIT_S = 5.0
SHARED = "shared"
MAX_CHARACTERS = 4096
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_CANNOT_LOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.EINVAL})

OnNotice = Callable[[str], object]


class Hold:
    """A run directory that this process holds: alone, or with others, whose `leases` divide the work."""

    def __init__(self, on_notice: OnNotice, leases: WorkLeases | None = None) -> None:
        self._on_notice = on_notice
        self.leases = leases

    def alone(self, part: str) -> AbstractContextManager[None]:
        """Do a part of the run that one process at a time may do. Waits for another one."""
        return nullcontext() if self.leases is None else self.leases.alone(part, self._on_notice)


@contextmanager
def hold(run: RunDirectory, on_notice: OnNotice, *, is_shared: bool) -> Iterator[Hold]:
    """Hold the run directory as `exclusive` or `shared` does."""
    if not is_shared:
        with exclusive(run, on_notice):
            yield Hold(on_notice)
        return
    with shared(run, on_notice) as leases:
        yield Hold(on_notice, leases)


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
            clear(run)
            _write(file, json.dumps(asdict(mine)))
            yield
            return
        on_notice(
            f"The file system of {run.path} cannot lock files for all nodes ({reason}): a lease file stands in for the "
            "lock. Start no second command on this run on another machine."
        )
        with leased(run, mine, on_notice):
            require_no_member(run, mine, on_notice)
            clear(run)
            yield


@contextmanager
def shared(run: RunDirectory, on_notice: OnNotice = lambda _: None) -> Iterator[WorkLeases]:
    """Hold the run directory together with other processes that call this, and yield the leases that divide the work.

    Raises `RunDirectoryError`, naming the other process, when one holds the directory exclusively.
    """
    mine = this_process(shares=True)
    with os.fdopen(_open(run), "r+", encoding="utf-8", errors="replace") as file:
        reason = _share(run, file)
        if reason is not None:
            on_notice(
                f"The file system of {run.path} cannot lock files for all nodes ({reason}): records of the processes "
                "stand in for the lock. Start no command without --shared on this run on another machine."
            )
        member = Member(run, mine)
        # The record comes before the look at the other's lease; the other one looks for records after its lease.
        with member.joined():
            lease = inside(run.path, ".lease")
            if reason is not None and os.path.lexists(lease) and not is_stale(lease):
                raise held_by(run, str(read_holder(lease) or "unknown"))
            leases = WorkLeases(member)
            try:
                yield leases
            finally:
                leases.release_all()


def _share(run: RunDirectory, file: TextIO) -> str | None:
    """Lock `file` for this and other sharing processes; see `_locked` for what is returned and raised.

    The first of them finds no other one alive, so what others left is removed at once.
    """
    deadline = time.monotonic() + JOIN_LIMIT_S
    try:
        if _try_flock(file, fcntl.LOCK_EX):
            reason = _local_option(run)
            if reason is None:
                clear(run)
            _write(file, SHARED)
        while not _try_flock(file, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                text = file.read(MAX_CHARACTERS).strip()
                raise held_by(run, str(parse_holder(text) or text or "unknown"))
            time.sleep(POLL_S)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise _cannot_be_locked(run, error) from error
        return error.strerror
    return _local_option(run)


def _try_flock(file: TextIO, kind: int) -> bool:
    """Lock `file`, and say whether that was possible at once. Raises `OSError` where nothing can be locked."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _locked(run: RunDirectory, file: TextIO, mine: Holder, on_notice: OnNotice) -> str | None:
    """Lock `file`, and return None, or why the lock does not exclude other nodes. Raises `RunDirectoryError`."""
    try:
        if not _try_flock(file, fcntl.LOCK_EX):
            _await_earlier_life(run, file, mine, on_notice)
    except OSError as error:
        if error.errno in _CANNOT_LOCK:
            return error.strerror
        raise _cannot_be_locked(run, error) from error
    return _local_option(run)


def _cannot_be_locked(run: RunDirectory, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(
        f"cannot be locked: {error.strerror}", where=str(run.path), remedy="choose another --results-dir"
    )


def _local_option(run: RunDirectory) -> str | None:
    """Say which option of the mount keeps locks from other nodes; None without one."""
    mount = mount_of(run.path)
    option = mount.local_lock_option if mount is not None else None
    return f"mounted with {option}" if option is not None else None


def _await_earlier_life(run: RunDirectory, file: TextIO, mine: Holder, on_notice: OnNotice) -> None:
    """Wait for the lock of an earlier life of this SLURM job, within limits; refuse any other one at once."""
    text = file.read(MAX_CHARACTERS).strip()
    holder = parse_holder(text)
    who = str(holder or text or "unknown")
    if text == SHARED:
        raise shared_by(run)
    if holder is None or not holder.is_earlier_life_of(mine):
        raise held_by(run, who)
    on_notice(
        f"An earlier life of this job ({who}) still holds {run.path}: waiting for its lock, at most "
        f"{EARLIER_LIFE_LIMIT_S:g} s."
    )
    deadline = time.monotonic() + EARLIER_LIFE_LIMIT_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        if _try_flock(file, fcntl.LOCK_EX):
            return
    raise held_by(run, who)


def _write(file: TextIO, text: str) -> None:
    """Say in the locked file who holds it."""
    file.seek(0)
    file.truncate(0)
    file.write(text)
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
