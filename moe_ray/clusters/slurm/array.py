"""An array of jobs of one node each that share a run: their status as one, and their logs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_ray.clusters.submission import Submission, SubmissionState, SubmissionStatus
from moe_ray.errors import RunDirectoryError
from moe_ray.formatting import plural

ARRAY = "array"  # a key of `Submission.details`: the number of jobs
MAX_JOBS = 1_000_000
# The state of the whole is the first of these that a job has: one that succeeded found the run complete.
PRECEDENCE: tuple[SubmissionState, ...] = (
    "running", "pending", "succeeded", "unknown", "interrupted", "failed", "stopped",
)  # fmt: skip


def element_ids(submission: Submission) -> list[str]:
    """Return the ids of the jobs of a submitted array; none where the submission is one job."""
    number = submission.details.get(ARRAY, "0")
    if not (number.isdecimal() and int(number) <= MAX_JOBS):
        raise RunDirectoryError(
            f"{number!r} is not a number of jobs",
            where="submission.json",
            remedy="remove the file and submit the run again",
        )
    return [f"{submission.id}_{element}" for element in range(1, int(number) + 1)]


def status_of_all(statuses: Sequence[SubmissionStatus], progress: str) -> SubmissionStatus:
    """Return the status of an array from those of its jobs; `progress` says how much of the run is done."""
    counts = Counter(status.state for status in statuses)
    state = next(state for state in PRECEDENCE if counts[state])
    first = next(status for status in statuses if status.state == state)
    listed = ", ".join(f"{counts[one]} {one}" for one in PRECEDENCE if counts[one])
    reason = f"{plural(len(statuses), 'job')}: {listed}{f'; {progress}' if progress else ''}"
    detail = f" ({first.reason})" if first.reason and state not in ("running", "succeeded") else ""
    return SubmissionStatus(state, reason + detail, None if state in ("running", "pending") else first.exit_code)


def progress_in_words(run: Path) -> str:
    """Say how many answers there are, as the processes that share the run know it; empty where none is there."""
    from moe_ray.store.members import member_records
    from moe_ray.store.run_directory import RunDirectory

    records = member_records(RunDirectory(run))
    counts: Mapping[int, int] = {record.num_done: record.num_cells for record in records if record.num_cells}
    return f"{max(counts)} of {counts[max(counts)]} answers" if counts else ""
