"""The run directory of a job as its launcher sees it: on this machine's disks, or on a login node over ssh."""

import time
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from moe_ray.clusters.slurm.hosts import Host
from moe_ray.clusters.slurm.life import FOLDER, LifeState, read_record, state_path, stopped_path
from moe_ray.clusters.submission import SUBMISSION_FILE, Submission
from moe_ray.errors import RunDirectoryError, UserError
from moe_ray.files import write_text_atomically
from moe_ray.store.inside import inside
from moe_ray.store.lease import file_system_time

# The writer renews the file every 10 s; a network file system may show it later. Its age is by the clock of the file
# system, which stamps files: the clock of a node, or of this machine, may be minutes off.
FRESH_S = 60.0
_LOOK = """
cd "$1/slurm" || exit
[ -e stopped ] && echo stopped || echo free
probe=$(mktemp -p . .XXXXXXXX.tmp) && now=$(stat -c %Y "$probe")
rm -f "$probe"
echo "$(( ${now:-$(date +%s)} - $(stat -c %Y "$2" || echo 0) ))"
cat "$2"
"""


class SeenState(NamedTuple):
    """The job's state file, and whether its writer lives."""

    state: LifeState
    is_fresh: bool


class RunFiles(Protocol):
    """What the launcher reads and writes in the run directory of a job."""

    def look(self) -> tuple[SeenState | None, bool]:
        """Return the job's state, None where it is unknown, and whether the job was stopped."""
        ...

    def read_log(self, position: int) -> bytes:
        """Return the bytes of the job's log from `position` on; none where there is no log yet."""
        ...

    def forbid(self) -> None:
        """Forbid further lives of the job."""
        ...


class LocalFiles:
    """A run directory that this machine sees."""

    def __init__(self, run: Path, job_id: str) -> None:
        self._run = run
        self._job_id = job_id

    def look(self) -> tuple[SeenState | None, bool]:
        """See `RunFiles.look`."""
        path = state_path(self._run, self._job_id)
        state, is_stopped = read_record(path, LifeState), stopped_path(self._run).exists()
        try:
            age_s = _now(path.parent) - path.stat().st_mtime
        except OSError:
            return None, is_stopped
        return _seen(state, age_s, self._job_id), is_stopped

    def read_log(self, position: int) -> bytes:
        """See `RunFiles.read_log`."""
        try:
            with inside(self._run, FOLDER, f"job-{self._job_id}.log").open("rb") as file:
                file.seek(position)
                return file.read()
        except OSError:
            return b""

    def forbid(self) -> None:
        """See `RunFiles.forbid`."""
        write_text_atomically(stopped_path(self._run), "")


class RemoteFiles:
    """A run directory on a login node. A host that does not answer leaves everything unknown."""

    def __init__(self, host: Host, run: str, job_id: str) -> None:
        self._host = host
        self._run = run
        self._job_id = job_id

    def look(self) -> tuple[SeenState | None, bool]:
        """See `RunFiles.look`."""
        answer = self._host.run(["sh", "-c", _LOOK, "sh", self._run, state_path(Path(), self._job_id).name])
        mark, _, rest = answer.out.partition("\n")
        age, _, text = rest.partition("\n")
        try:
            return _seen(LifeState.model_validate_json(text), float(age), self._job_id), mark == "stopped"
        except (ValidationError, ValueError):
            return None, mark == "stopped"

    def read_log(self, position: int) -> bytes:
        """See `RunFiles.read_log`."""
        path = f"{self._run}/{FOLDER}/job-{self._job_id}.log"
        answer = self._host.run(["tail", "-c", f"+{position + 1}", path])
        return answer.out_bytes if answer.code == 0 else b""

    def forbid(self) -> None:
        """See `RunFiles.forbid`."""
        answer = self._host.run(["touch", f"{self._run}/{FOLDER}/stopped"])
        if answer.code != 0:
            raise UserError(
                f"cannot mark the run as stopped: {answer.err.strip()}",
                where=self._host.name,
                remedy="check that ssh works and run the same command again",
            )


def files_of(run: Path, submission: Submission, job_id: str | None = None) -> RunFiles:
    """Return the files of a submission's run, or of one job of its array."""
    job_id = job_id or submission.id
    if not submission.target:
        return LocalFiles(run, job_id)
    return RemoteFiles(Host(submission.target), remote_run(run, submission), job_id)


def remote_run(run: Path, submission: Submission) -> str:
    """Return the path of the run directory on the host. Raises `RunDirectoryError` where the record names none."""
    path = submission.details.get("run", "")
    if not path.startswith("/"):
        raise RunDirectoryError(
            f"names no run directory on {submission.target}",
            where=str(run / SUBMISSION_FILE),
            remedy="remove the file and submit the run again",
        )
    return path


def _seen(state: LifeState | None, age_s: float, job_id: str) -> SeenState | None:
    return SeenState(state, age_s < FRESH_S) if state is not None and state.job_id == job_id else None


def _now(folder: Path) -> float:
    """Return the time by the clock that stamps the files of `folder`; this machine's where it cannot be written."""
    try:
        return file_system_time(folder)
    except OSError:
        return time.time()
