"""Submitted runs: the record in the run directory, and the interface to the system that runs them.

Every kind of cluster implements `Launcher`, so that `status`, `logs`, `stop` and `sync` are one command each.

A run directory may come from another user, whose record could send a token or open a connection anywhere. So this
user's own list of clusters says where it may go, and which file holds the token.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from pydantic import Field, TypeAdapter, ValidationError

from moe_ray.config.paths import cache_directory
from moe_ray.errors import RunDirectoryError, UserError
from moe_ray.files import StoredRecord, read_bytes, write_text_atomically
from moe_ray.store.inside import inside

SubmissionState = Literal["pending", "running", "succeeded", "failed", "stopped", "interrupted", "unknown"]
LauncherKind = Literal["ray-job", "slurm"]

SUBMISSION_FILE = "submission.json"
CLUSTERS_FILE = "clusters.json"
SUBMISSIONS_FILE = "submissions.json"
MAX_REMEMBERED = 1000
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL: the command was interrupted, and its work is saved; run it again
TOKEN_FILE = "token_file"  # a key of `Submission.details`
_LAUNCHERS: dict[LauncherKind, str] = {
    "ray-job": "moe_ray.clusters.ray_jobs.launcher",
    "slurm": "moe_ray.clusters.slurm.launcher",
}
_KNOWN = TypeAdapter(dict[str, str | None])
_SUBMITTED = TypeAdapter(dict[str, str])


class Submission(StoredRecord):
    """A submitted run. A second submission of the same run replaces the record and increments `attempt`.

    `id` is the scheduler's. `target` is the address of the Ray cluster, or the ssh host of the SLURM cluster; empty for
    the machine that the command ran on. `command` has the arguments of `moe-ray` that the job runs. `details` is for
    the launcher alone.
    """

    version: Literal[1] = 1
    kind: LauncherKind
    id: str
    target: str
    command: tuple[str, ...]
    submitted_at: str
    attempt: int = Field(default=1, ge=1)
    details: dict[str, str] = Field(default_factory=dict)


class SubmissionStatus(NamedTuple):
    """What is known about a submission now.

    "interrupted" is a run that stopped before its end and resumes, by itself or when it is submitted again. "unknown"
    means that the scheduler did not answer, or no longer lists the job; it never means that the run ended.
    """

    state: SubmissionState
    reason: str = ""
    exit_code: int | None = None
    """Of the run itself; None before it ended, and where it is not known."""


class Launcher(Protocol):
    """Controls the submissions of one kind of cluster."""

    def status(self, run: Path, submission: Submission) -> SubmissionStatus:
        """Return the state of the submission. A scheduler that fails or hangs gives "unknown", never an exception."""
        ...

    def logs(self, run: Path, submission: Submission, *, follow: bool) -> Iterator[str]:
        """Yield the lines of the run's log; with `follow`, until the submission ends."""
        ...

    def stop(self, run: Path, submission: Submission) -> None:
        """End the run and everything that would start it again, and return when nothing is left."""
        ...

    def sync(self, run: Path, submission: Submission, on_progress: Callable[[str], object]) -> None:
        """Copy the run directory from the cluster to `run`, small results first. Resumable."""
        ...


def launcher_for(submission: Submission) -> Launcher:
    """Return the launcher of this submission's kind."""
    launcher: Launcher = import_module(_LAUNCHERS[submission.kind]).LAUNCHER
    return launcher


def write_submission(run: Path, submission: Submission) -> None:
    """Write the record into the run directory, which is created if necessary, and remember its cluster."""
    run.mkdir(parents=True, exist_ok=True)
    write_text_atomically(inside(run, SUBMISSION_FILE), submission.model_dump_json(indent=2) + "\n")
    _remember(submission, submission.details.get(TOKEN_FILE))
    if submission.target:
        submitted = {**_submitted_here(), _job(submission): str(run.resolve())}
        _keep(SUBMISSIONS_FILE, dict(list(submitted.items())[-MAX_REMEMBERED:]))


def require_submitted_here(run: Path, submission: Submission) -> None:
    """Raise `UserError` unless this user submitted this job from this run directory, by this user's own list."""
    if _submitted_here().get(_job(submission)) != str(run.resolve()):
        raise UserError(
            f"names job {submission.id} of {submission.target}, which you have not submitted from here",
            where=str(run / SUBMISSION_FILE),
            remedy=f"if the job is yours, end it there with: scancel {submission.id}",
        )


def open_submission(run: Path, *, trust: bool = False) -> Submission:
    """Read the record of a run directory, to reach its cluster; see `read_submission`.

    The file of a token is the one that was last used with that cluster, never the record's. Raises `UserError` for a
    cluster that this user has not submitted to, unless `trust`, which remembers it.
    """
    submission = read_submission(run)
    if not submission.target:
        return submission
    known = _known_clusters()
    if _cluster(submission) not in known:
        if not trust:
            raise UserError(
                f"names a cluster that you have not submitted to from here: {submission.target!r}",
                where=str(run / SUBMISSION_FILE),
                remedy=f"if you trust it, run moe-ray status {run} --trust once",
            )
        _remember(submission, None)
    details = {key: value for key, value in submission.details.items() if key != TOKEN_FILE}
    token_file = known.get(_cluster(submission))
    if token_file is not None:
        details[TOKEN_FILE] = token_file
    return submission.model_copy(update={"details": details})


def read_submission(run: Path) -> Submission:
    """Read the record of a run directory.

    Raises `UserError` where there is none, `RunDirectoryError` for a file that is not one.
    """
    path = inside(run, SUBMISSION_FILE)
    try:
        return Submission.model_validate_json(read_bytes(path))
    except FileNotFoundError as error:
        raise UserError(
            "was not submitted to a cluster",
            where=str(run),
            remedy="name a run directory that `moe-ray submit` or `moe-ray slurm` wrote to",
        ) from error
    except (OSError, ValidationError) as error:
        raise RunDirectoryError(
            "is not the record of a submission", where=str(path), remedy="remove it and submit the run again"
        ) from error


def next_attempt(run: Path, state_of: Callable[[Submission], SubmissionState | None] = lambda _previous: None) -> int:
    """Return the number of a new submission of a run. Raises `UserError` while the earlier one waits or runs.

    `state_of` is asked first, for a cluster that needs no record to be reached; None leaves it to the launcher.
    """
    if not inside(run, SUBMISSION_FILE).exists():
        return 1
    previous = read_submission(run)
    state = state_of(previous)
    if state is None:
        previous = open_submission(run)
        state = launcher_for(previous).status(run, previous).state
    if state in ("pending", "running"):
        raise UserError(
            f"job {previous.id} of this run is {state}",
            where=str(run),
            remedy=f"moe-ray logs {run} --follow shows its log, moe-ray stop {run} ends it",
        )
    return previous.attempt + 1


def _cluster(submission: Submission) -> str:
    return f"{submission.kind} {submission.target}"


def _job(submission: Submission) -> str:
    return f"{_cluster(submission)} {submission.id}"


def _remember(submission: Submission, token_file: str | None) -> None:
    """Add a submission's cluster to this user's list, with the file of its token."""
    if not submission.target:
        return
    known = {**_known_clusters(), _cluster(submission): token_file}
    _keep(CLUSTERS_FILE, known)


def _keep(name: str, value: Mapping[str, str | None]) -> None:
    """Write one of this user's own lists."""
    path = cache_directory() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(value, indent=2) + "\n")
    path.chmod(0o600)


def _known_clusters() -> dict[str, str | None]:
    """Return the clusters of this user's list; a list that cannot be read is empty."""
    try:
        return _KNOWN.validate_json(read_bytes(cache_directory() / CLUSTERS_FILE))
    except (OSError, ValidationError):
        return {}


def _submitted_here() -> dict[str, str]:
    """Return the run directories of the jobs that this user submitted to other machines, oldest first."""
    try:
        return _SUBMITTED.validate_json(read_bytes(cache_directory() / SUBMISSIONS_FILE))
    except (OSError, ValidationError):
        return {}
