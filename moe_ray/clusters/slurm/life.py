"""The files of a job in the run directory, below `slurm/`.

job.sh               the batch script
job-ID.log           the output of the job, of all its lives
state.json           what the job does now; state-K.json for element K of an array of jobs that share the run
stopped              present after `moe-ray stop`: nothing starts or requeues the job
finished             present when the jobs of a chain or an array that are left have nothing to do
ID.RESTART/          one life: from a start of the batch script to its end; ID is 17_3 for element 3 of array 17
    record.json      how the life began and ended
    node-RANK.json   a node: addresses, resources
    head.json        the address of the Ray cluster
    ready-RANK       Ray runs on that node
    failed-RANK.json why a node cannot take part, with the last lines of its log
    warned           SLURM sent its warning before the time limit or a preemption
    ended            the command has ended, and the nodes stop
    exit_code        the exit code of the job
    requeue          present when the job must be requeued
    token            Ray's token, only while the life lasts
    reserve          room on the disk for the last records of the life, only while it lasts
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from moe_ray.errors import RunFailedError
from moe_ray.files import StoredRecord, read_bytes, write_atomically, write_text_atomically
from moe_ray.store.inside import inside

FOLDER = "slurm"
RecordT = TypeVar("RecordT", bound=StoredRecord)

Phase = Literal["starting", "running", "saving", "ended"]
LifeEnd = Literal["finished", "interrupted", "failed"]
POLL_S = 0.2
# For waits of hours: many nodes list the folder, which a parallel file system feels.
WATCH_S = 1.0
RESERVE_BYTES = 1 << 18


class NodeFailedError(RunFailedError):
    """A node cannot take part in the job."""


class NodeRecord(StoredRecord):
    """What one agent says about its node."""

    rank: int
    name: str
    addresses: list[str]
    num_cpus: int
    num_gpus: int
    memory_bytes: int
    object_store_bytes: int


class HeadRecord(StoredRecord):
    """Where the Ray cluster of the job is."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """host:port, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class FailedNode(StoredRecord):
    """Why a node cannot take part, and the last lines of its log."""

    rank: int
    name: str
    reason: str
    log: list[str] = Field(default_factory=list)


class LifeRecord(StoredRecord):
    """One life of a job. `end` is None while it lasts, and for a life that lost its node or was killed.

    What was saved is an amount of `SavedWork`.
    """

    job_id: str
    restart: int
    started_at: float
    saved_before: int
    end: LifeEnd | None = None
    exit_code: int | None = None
    saved_after: int | None = None


class LifeState(StoredRecord):
    """What a job does now. Its writer renews the file, so that an old file means a dead writer."""

    job_id: str
    restart: int
    phase: Phase
    message: str = ""
    exit_code: int | None = None
    will_requeue: bool = False


class Life:
    """One life of a job, as files below the run directory that all nodes see."""

    def __init__(self, run: Path, job_id: str, restart: int) -> None:
        self.run = run
        self.job_id = job_id
        self.restart = restart
        self.folder = inside(run, FOLDER, f"{job_id}.{restart}")

    @classmethod
    def of_environment(cls, run: Path, *, shares: bool = False) -> "Life":
        """Return the life that this process belongs to.

        The elements of a chain, a job array, are lives of one job; those of an array that `shares` the run are jobs.
        """
        restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        if shares:
            return cls(run, scheduler_id(os.environ), restarts)
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0) + restarts
        return cls(run, os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ["SLURM_JOB_ID"], number)

    def path(self, name: str) -> Path:
        """Return the path of one of the files."""
        return inside(self.folder, name)

    def names(self) -> set[str]:
        """Return the files that are there. Listing the folder shows new files that a cached lookup would miss."""
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries}
        except FileNotFoundError:
            return set()

    def write(self, name: str, record: StoredRecord) -> None:
        """Write a record whole."""
        self._make_folder()
        write_text_atomically(self.path(name), record.model_dump_json(indent=2) + "\n")

    def mark(self, name: str, text: str = "") -> None:
        """Write a file whose presence is the message."""
        self._make_folder()
        write_text_atomically(self.path(name), text)

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, name: str, kind: type[RecordT]) -> RecordT | None:
        """Read a record; None where it is missing or cannot be read."""
        return read_record(self.path(name), kind)

    def make_token(self) -> Path:
        """Create the file with Ray's token, which no other user may read."""
        self._make_folder()
        path = self.path("token")
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        return path

    def reserve(self) -> None:
        """Keep room on the disk, so that the end of this life can be written when the disk is full."""
        self._make_folder()
        write_atomically(self.path("reserve"), lambda path: path.write_bytes(secrets.token_bytes(RESERVE_BYTES)))

    def release(self) -> str | None:
        """Give the room back; returns the error where the disk is full, None where it is not."""
        reason = None
        try:
            self.reserve()
        except OSError as error:
            reason = error.strerror
        self.path("reserve").unlink(missing_ok=True)
        return reason

    def earlier(self) -> list[LifeRecord]:
        """Return the earlier lives of this job, oldest first."""
        found = [life for life in lives_of(self.run, self.job_id) if life.restart < self.restart]
        return sorted(found, key=lambda life: life.restart)


def lives_of(run: Path, job_id: str) -> Iterator[LifeRecord]:
    """Yield the records of a job's lives."""
    folder = inside(run, FOLDER)
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if re.fullmatch(rf"{re.escape(job_id)}\.\d+", entry.name):
            record = read_record(entry / "record.json", LifeRecord)
            if record is not None:
                yield record


def scheduler_id(environment: Mapping[str, str]) -> str:
    """Return what SLURM calls this job. The plain number of an element of an array may be that of the whole array."""
    array, element = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array and element else environment["SLURM_JOB_ID"]


def state_path(run: Path, job_id: str = "") -> Path:
    """Return the path of the file that says what the job does now."""
    element = job_id.partition("_")[2]
    return inside(run, FOLDER, f"state-{element}.json" if element else "state.json")


def stopped_path(run: Path) -> Path:
    """Return the path of the file that forbids further lives."""
    return inside(run, FOLDER, "stopped")


def finished_path(run: Path) -> Path:
    """Return the path of the file that ends the jobs of a chain or an array that are left."""
    return inside(run, FOLDER, "finished")


def read_record(path: Path, kind: type[RecordT]) -> RecordT | None:
    """Read a record; None where it is missing, half visible on a network file system, or not one."""
    try:
        return kind.model_validate_json(read_bytes(path))
    except (OSError, ValidationError):
        return None


def wait_for(holds: Callable[[], bool], timeout_s: float) -> bool:
    """Return True as soon as `holds`, and False when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
