"""The processes that share a run directory. Each renews a record of itself and watches the records of the others.

A heartbeat is a counter. A process is taken for dead when its counter did not change for `EXPIRY_S` by the monotonic
clock of the process that watches, so that clocks which differ between machines have no effect.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord, read_bytes, write_text_atomically
from moe_ray.store.holder import Holder
from moe_ray.store.inside import files_inside, inside
from moe_ray.store.run_directory import RunDirectory

FOLDER, MEMBERS, WORK = ".leases", "members", "work"
RENEW_S = 10.0
EXPIRY_S = 60.0
# A watcher that did not look for longer was itself suspended or cut off: that says nothing about the others.
MAX_GAP_S = 20.0
POLL_S = 1.0
MAX_BYTES = 4096


class MemberRecord(StoredRecord):
    """A process that shares a run, and how many of the run's cells it knows to be done, by whatever process.

    `work` names what it divides with the others; empty until that is known.
    """

    holder: Holder
    beat: int
    work: str = ""
    num_done: int = Field(default=0, ge=0)
    num_cells: int = Field(default=0, ge=0)


@dataclass(slots=True)
class _Seen:
    """A heartbeat, the time for which it was seen unchanged, and the moment of the last look."""

    beat: int | None
    looked_at: float
    silent_s: float = 0.0
    has_changed: bool = False


class Watch:
    """Tells live processes from dead ones by their heartbeats. `now` is a monotonic clock."""

    def __init__(self, run: RunDirectory, mine: Holder, now: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._mine = mine
        self._now = now
        self._seen: dict[str, _Seen] = {}

    def is_dead(self, holder: Holder) -> bool:
        """Say whether a process has ended, or was silent for `EXPIRY_S` while it was watched.

        Its silence begins with the first call for it, and counts only while calls follow each other.
        """
        if holder.owner == self._mine.owner:
            return False
        return holder.is_gone or self._look(holder).silent_s >= EXPIRY_S

    def has_beaten(self, holder: Holder) -> bool:
        """Say whether its heartbeat has changed since the first call for it."""
        return self._look(holder).has_changed

    def _look(self, holder: Holder) -> _Seen:
        record = _read_member(self._run, holder.owner)
        beat, now = None if record is None else record.beat, self._now()
        seen = self._seen.setdefault(holder.owner, _Seen(beat, now))
        if beat != seen.beat:
            self._seen[holder.owner] = seen = _Seen(beat, now, has_changed=True)
        seen.silent_s += min(now - seen.looked_at, MAX_GAP_S)
        seen.looked_at = now
        return seen


class Member:
    """This process as one of those that share a run. Its record is renewed until it leaves."""

    def __init__(self, run: RunDirectory, mine: Holder) -> None:
        self.run = run
        self.holder = mine
        self.watch = Watch(run, mine)
        self._beat = secrets.randbits(32)
        self._work = ""
        self._progress = (0, 0)
        self._path = _member_path(run, mine.owner)
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="member", daemon=True)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be a member within this context."""
        self._write()
        self._thread.start()
        try:
            yield
        finally:
            self._done.set()
            self._thread.join()
            self._path.unlink(missing_ok=True)

    def divide(self, work: str) -> None:
        """Say what this process divides with others. Raises `RunDirectoryError` where they divide something else."""
        for record in member_records(self.run):
            if record.work not in ("", work) and not self.watch.is_dead(record.holder):
                raise RunDirectoryError(
                    f"another process that shares this directory ({record.holder}) runs other settings",
                    where=str(self.run.path),
                    remedy="give all of them the same experiment and options, or wait for the others",
                )
        self._work = work
        self._write()

    def report(self, num_done: int, num_cells: int) -> None:
        """Show this progress from the next heartbeat on."""
        self._progress = (num_done, num_cells)

    def _renew(self) -> None:
        while not self._done.wait(RENEW_S):
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._beat += 1
            num_done, num_cells = self._progress
            record = MemberRecord(
                holder=self.holder, beat=self._beat, work=self._work, num_done=num_done, num_cells=num_cells
            )
            write_text_atomically(self._path, record.model_dump_json())


def member_records(run: RunDirectory) -> list[MemberRecord]:
    """Return the records that are there, of live and of dead processes."""
    paths = files_inside(run.path, f"{FOLDER}/{MEMBERS}", ".json")
    found = (_read_member(run, path.stem) for path in paths)
    return [record for record in found if record is not None]


def shared_by(run: RunDirectory) -> RunDirectoryError:
    """Return the error for a command that needs a run directory alone, which others share."""
    holders = [record.holder for record in member_records(run) if not record.holder.is_gone]
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    who = f"{holders[0]}{more}" if holders else "unknown"
    return RunDirectoryError(
        f"processes that share this directory ({who}) are working in it",
        where=str(run.path),
        remedy="wait for them, stop them, or join them with: moe-ray evaluate FILE --shared",
    )


def require_no_member(run: RunDirectory, mine: Holder, on_notice: Callable[[str], object]) -> None:
    """Raise `RunDirectoryError` while processes that share the run live. Watches those that left records."""
    watch, is_announced = Watch(run, mine), False
    while holders := [record.holder for record in member_records(run)]:
        alive = [holder for holder in holders if not watch.is_dead(holder)]
        if not alive:
            return
        if any(map(watch.has_beaten, alive)):
            raise shared_by(run)
        if not is_announced:
            on_notice(f"Processes shared {run.path}: watching for {EXPIRY_S:g} s whether one of them still lives.")
            is_announced = True
        time.sleep(POLL_S)


def clear(run: RunDirectory) -> None:
    """Remove the records and leases of processes that shared the run, all of which have ended."""
    for folder in (MEMBERS, WORK):
        for path in files_inside(run.path, f"{FOLDER}/{folder}", ""):
            path.unlink(missing_ok=True)


def _member_path(run: RunDirectory, owner: str) -> Path:
    return inside(run.path, FOLDER, MEMBERS, f"{owner}.json")


def _read_member(run: RunDirectory, owner: str) -> MemberRecord | None:
    try:
        return MemberRecord.model_validate_json(read_bytes(_member_path(run, owner), max_bytes=MAX_BYTES))
    except (OSError, ValidationError):
        return None
