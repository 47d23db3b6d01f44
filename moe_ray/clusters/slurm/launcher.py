"""Controls submitted SLURM jobs: status, logs, stop. The run directory is the truth; SLURM says what waits."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moe_ray.clusters.slurm.array import element_ids, progress_in_words, status_of_all
from moe_ray.clusters.slurm.hosts import Host
from moe_ray.clusters.slurm.life import FOLDER, LifeState
from moe_ray.clusters.slurm.run_files import RunFiles, SeenState, files_of, remote_run
from moe_ray.clusters.slurm.scheduler import QueuedJob, SlurmScheduler, reason_in_words
from moe_ray.clusters.slurm.script import SCRIPT_FILE
from moe_ray.clusters.slurm.sync import fetch
from moe_ray.clusters.submission import (
    EXIT_TRY_AGAIN,
    SUBMISSION_FILE,
    Submission,
    SubmissionStatus,
    require_submitted_here,
)
from moe_ray.errors import RunDirectoryError, UserError
from moe_ray.store.inside import inside

FOLLOW_POLL_S = 1.0
_JOB_ID = re.compile(r"\d{1,12}(_\d{1,9})?")
CUT_OFF = frozenset({"BOOT_FAIL", "DEADLINE", "NODE_FAIL", "PREEMPTED", "TIMEOUT"})


def judge(seen: SeenState | None, queued: QueuedJob | None, *, is_stopped: bool) -> SubmissionStatus:
    """Return the status of a job from its state file, from squeue's answer (None for no answer), and the stop mark."""
    ended = seen.state if seen is not None and seen.state.phase == "ended" else None
    waits = queued is not None and queued.is_waiting
    if ended is not None and not ended.will_requeue and not waits:
        return _of_end(ended, is_stopped=is_stopped)
    if queued is not None and not queued.is_over:
        if queued.is_waiting:
            return SubmissionStatus("pending", reason_in_words(queued.reason))
        return SubmissionStatus("running", seen.state.message if seen is not None else "the nodes start")
    if is_stopped and (queued is not None or seen is None or not seen.is_fresh):
        return SubmissionStatus("stopped", "stopped by moe-ray stop")
    if queued is not None and (ended is None or queued.state == "CANCELLED"):
        return _of_queue(queued)
    if ended is not None:
        return SubmissionStatus("interrupted", ended.message, ended.exit_code)
    if seen is not None and seen.is_fresh:
        return SubmissionStatus("running", f"{seen.state.message}; SLURM gave no answer")
    return SubmissionStatus("unknown", "SLURM gave no answer about the job, and its state file is not renewed")


def _of_end(ended: LifeState, *, is_stopped: bool) -> SubmissionStatus:
    if ended.exit_code == 0:
        return SubmissionStatus("succeeded", "", 0)
    if is_stopped:
        return SubmissionStatus("stopped", "stopped by moe-ray stop", ended.exit_code)
    is_interrupted = ended.exit_code == EXIT_TRY_AGAIN
    return SubmissionStatus("interrupted" if is_interrupted else "failed", ended.message, ended.exit_code)


def _of_queue(queued: QueuedJob) -> SubmissionStatus:
    """The status of a job that is over for SLURM, though the run directory has no end of it."""
    if queued.state == "CANCELLED":
        return SubmissionStatus("stopped", "cancelled")
    if queued.state in CUT_OFF:
        return SubmissionStatus("interrupted", f"SLURM ended the job: {queued.state}")
    return SubmissionStatus("failed", f"SLURM says {queued.state}, and the run has not ended; see the log")


class SlurmLauncher:
    """Implements `moe_ray.clusters.submission.Launcher`."""

    def status(self, run: Path, submission: Submission) -> SubmissionStatus:
        """Return the state of the job. A scheduler that fails, hangs or prints nothing never means that it ended."""
        elements = element_ids(submission)
        if elements:
            return self._status_of_array(run, submission, elements)
        queued = _scheduler_of(run, submission).job(submission.id)
        seen, is_stopped = files_of(run, submission).look()
        return judge(seen, queued, is_stopped=is_stopped)

    def _status_of_array(self, run: Path, submission: Submission, elements: Sequence[str]) -> SubmissionStatus:
        queued = _scheduler_of(run, submission).elements(submission.id)
        statuses = []
        for element in elements:
            seen, is_stopped = files_of(run, submission, element).look()
            statuses.append(judge(seen, queued.get(element), is_stopped=is_stopped))
        return status_of_all(statuses, "" if submission.target else progress_in_words(run))

    def logs(self, run: Path, submission: Submission, *, follow: bool) -> Iterator[str]:
        """Yield the lines of the job's log, of all its lives; with `follow`, until the job ends.

        Lines of an array's jobs begin with the number of the job.
        """
        logs = [_Log(files_of(run, submission), "")]
        if elements := element_ids(submission):
            logs = [_Log(files_of(run, submission, job), f"{job.partition('_')[2]}: ") for job in elements]
        while True:
            is_over = not follow or self.status(run, submission).state not in ("pending", "running", "unknown")
            for log in logs:
                yield from log.read(is_over=is_over)
            if is_over:
                return
            time.sleep(FOLLOW_POLL_S)

    def stop(self, run: Path, submission: Submission) -> None:
        """Forbid further lives of the job, cancel it, and return when SLURM says that nothing is left of it.

        Raises `UserError` where the job is not this run's: the record of another user's run directory may name any job.
        """
        scheduler = _scheduler_of(run, submission)
        if submission.target:
            require_submitted_here(run, submission)
        jobs = scheduler.shown(submission.id)
        for job in jobs or ():
            _require_script_of(run, submission, job.script)
        files_of(run, submission).forbid()
        if jobs is None:
            raise UserError(
                "SLURM gave no answer about the job, so it was not cancelled",
                where=f"job {submission.id}",
                remedy=f"run this command again when `scontrol show job {submission.id}` answers; the run directory "
                "forbids another start of the job",
            )
        if jobs:
            scheduler.cancel(submission.id)

    def sync(self, run: Path, submission: Submission, on_progress: Callable[[str], object]) -> None:
        """Copy the run directory from the login node; nothing where the job was submitted on this machine."""
        if submission.target:
            fetch(Host(submission.target), remote_run(run, submission), run, on_progress)
        else:
            on_progress(f"{run} is the job's own run directory")


class _Log:
    """The log of one job, as it grows."""

    def __init__(self, files: RunFiles, prefix: str) -> None:
        self._files = files
        self._prefix = prefix
        self._position = 0
        self._rest = b""

    def read(self, *, is_over: bool) -> Iterator[str]:
        """Yield the lines that came since the last call; with `is_over` also one without an end."""
        content = self._files.read_log(self._position)
        self._position += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in [*lines, *([self._rest] if is_over and self._rest else [])]:
            yield self._prefix + line.decode("utf-8", "replace")


LAUNCHER = SlurmLauncher()


def _scheduler_of(run: Path, submission: Submission) -> SlurmScheduler:
    """Return the scheduler of a submission. A run directory of another user may hold any text in place of the id."""
    if not _JOB_ID.fullmatch(submission.id):
        raise RunDirectoryError(
            f"{submission.id!r} is not the id of a SLURM job",
            where=str(run / SUBMISSION_FILE),
            remedy="remove the file and submit the run again",
        )
    return SlurmScheduler(Host(submission.target))


def _require_script_of(run: Path, submission: Submission, script: str) -> None:
    """Raise `UserError` unless SLURM says that the job runs the script in the run directory."""
    if submission.target:
        is_own = script == f"{remote_run(run, submission)}/{FOLDER}/{SCRIPT_FILE}"
    else:
        is_own = Path(script).resolve() == inside(run, FOLDER, SCRIPT_FILE).resolve()
    if not is_own:
        raise UserError(
            f"job {submission.id} is not a job of this run: its script is {script}",
            where=str(run / SUBMISSION_FILE),
            remedy=f"stop the run that the job belongs to, or end the job with: scancel {submission.id}",
        )
