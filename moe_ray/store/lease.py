"""A file that says who holds a run directory, for file systems that cannot lock files for all nodes.

Its holder touches it every `RENEW_S` seconds. It is stale when its process is known to have ended, or after `STALE_S`
without a touch. A requeued SLURM job takes over from its earlier life after `SILENCE_S` without one.
"""

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from moe_ray.errors import RunDirectoryError
from moe_ray.store.holder import Holder, parse_holder
from moe_ray.store.inside import inside
from moe_ray.store.run_directory import RunDirectory

RENEW_S = 15.0
SILENCE_S = 45.0
STALE_S = 120.0
POLL_S = 0.5
MAX_BYTES = 4096


@contextmanager
def leased(run: RunDirectory, mine: Holder, on_notice: Callable[[str], object]) -> Iterator[None]:
    """Hold the lease of `run`, and renew it. Raises `RunDirectoryError` when another process holds it.

    A process that was suspended or cut off for so long that another one took the lease over is interrupted, as Ctrl-C
    does, after a notice.
    """
    path = inside(run.path, ".lease")
    _take(run, path, mine, on_notice)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, mine, done, on_notice), name="lease", daemon=True)
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


def read_holder(path: Path) -> Holder | None:
    """Return who holds the lease; None when there is none, or one that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return parse_holder(file.read(MAX_BYTES))
    except OSError:
        return None


def _take(run: RunDirectory, path: Path, mine: Holder, on_notice: Callable[[str], object]) -> None:
    if create_lease(path, mine) or (is_stale(path) and _replace(run, path, mine, is_stale)):
        return
    holder = read_holder(path)
    if holder is not None and holder.is_earlier_life_of(mine):
        on_notice(
            f"An earlier life of this job ({holder}) holds the lease of {run.path}: waiting until it is silent for "
            f"{SILENCE_S:g} s, at most {STALE_S:g} s."
        )
        silence = _Silence(path, holder)
        if silence.comes_within(STALE_S) and (create_lease(path, mine) or _replace(run, path, mine, silence.lasts)):
            on_notice(f"Took over {run.path} from the earlier life of this job.")
            return
    raise held_by(run, str(holder or "unknown"))


class _Silence:
    """Watches the lease of an earlier life. Its heartbeats are the changes of the file's time of modification."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path = path
        self._holder = holder
        self._last_beat = _beat(path)
        self._since = time.monotonic()

    def comes_within(self, limit_s: float) -> bool:
        """Wait for the end of the heartbeats. False when another process has the lease, or they go on."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self.lasts(self._path):
                return True
            if read_holder(self._path) not in (None, self._holder):
                return False
            time.sleep(POLL_S)
        return False

    def lasts(self, path: Path) -> bool:
        """Say whether the holder is gone, has released the lease, or was silent for `SILENCE_S`."""
        beat = _beat(path)
        if beat != self._last_beat:
            self._last_beat, self._since = beat, time.monotonic()
        if beat is None:
            return True
        if read_holder(path) != self._holder:  # another later life was faster
            return False
        return self._holder.is_gone or time.monotonic() - self._since >= SILENCE_S


def _beat(path: Path) -> int | None:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return None


def _replace(run: RunDirectory, path: Path, mine: Holder, may_replace: Callable[[Path], bool]) -> bool:
    """Replace a lease, and say whether it is ours now. One process at a time may: the one that makes a folder."""
    claim = path.with_name(".lease.claim")
    try:
        claim.mkdir()
    except FileExistsError:
        if _is_old(claim):  # its process was killed in between; the next command can go on
            with suppress(OSError):
                claim.rmdir()
        raise held_by(run, "one that replaces the lease of an ended process") from None
    try:
        if not may_replace(path):
            return False
        path.unlink(missing_ok=True)
        return create_lease(path, mine)
    finally:
        claim.rmdir()


def create_lease(path: Path, mine: Holder) -> bool:
    """Write a lease, and say whether it is ours; False when there is one already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(mine), file)
        file.flush()
        os.fsync(descriptor)
    return True


def is_stale(path: Path) -> bool:
    """Say whether the process that holds the lease is known to have ended, or did not touch it for `STALE_S`."""
    holder = read_holder(path)
    return (holder is not None and holder.is_gone) or _is_old(path)


def _is_old(path: Path) -> bool:
    """True when `path` was not touched for a while, or is gone."""
    try:
        return file_system_time(path.parent) - path.lstat().st_mtime > STALE_S
    except FileNotFoundError:
        return True


def file_system_time(folder: Path) -> float:
    """Return the time by the clock that stamps the files of `folder`: another machine's, on a network file system."""
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        return probe.lstat().st_mtime
    finally:
        probe.unlink()


def _renew(path: Path, mine: Holder, done: threading.Event, on_notice: Callable[[str], object]) -> None:
    while not done.wait(RENEW_S):
        with suppress(OSError):
            _touch(path, mine)
        holder = read_holder(path)
        if holder is not None and holder.owner != mine.owner:
            on_notice(f"Another process ({holder}) took over {path.parent}: this command ends.")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return


def _touch(path: Path, mine: Holder) -> None:
    """Renew the lease. One that was just removed, to be replaced, is written again: then the other process fails."""
    try:
        os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        create_lease(path, mine)
