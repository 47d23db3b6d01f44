"""Control of a run that was submitted as a Ray job."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from moe_ray.clusters.ray_jobs.access import parse_address
from moe_ray.clusters.ray_jobs.client import JobInfo, JobMissingError, JobsClient, JobsUnreachableError
from moe_ray.clusters.ray_jobs.follow import follow
from moe_ray.clusters.ray_jobs.transfer import bring
from moe_ray.clusters.submission import (
    EXIT_TRY_AGAIN,
    Launcher,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from moe_ray.errors import RunFailedError, UserError, first_line

STOP_TIMEOUT_S = 60.0
STOP_POLL_S = 0.5
_STATES: dict[str, SubmissionState] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


class RayJobLauncher:
    """Implements `moe_ray.clusters.submission.Launcher`."""

    def status(self, run: Path, submission: Submission) -> SubmissionStatus:  # noqa: ARG002 - the cluster knows
        """See `Launcher.status`. A cluster that was restarted has forgotten the job: "unknown"."""
        try:
            with client_of(submission) as client:
                return status_of(client.info(submission.id))
        except (JobsUnreachableError, JobMissingError, UserError) as error:
            return SubmissionStatus("unknown", first_line(error))

    def logs(self, run: Path, submission: Submission, *, follow: bool) -> Iterator[str]:  # noqa: ARG002
        """See `Launcher.logs`. Raises `UserError` where the cluster does not have the log."""
        with client_of(submission) as client:
            if follow:
                yield from _followed(client, submission.id)
                return
            try:
                text = client.logs(submission.id)
            except (JobsUnreachableError, JobMissingError) as error:
                raise _no_answer(error) from error
        yield from text.splitlines()

    def stop(self, run: Path, submission: Submission) -> None:  # noqa: ARG002
        """See `Launcher.stop`. A job that has ended, or that the cluster has forgotten, is stopped already."""
        with client_of(submission) as client:
            try:
                if client.info(submission.id).has_ended:
                    return
                client.stop(submission.id)
                self._wait(client, submission.id)
            except JobMissingError:
                return
            except JobsUnreachableError as error:
                raise _no_answer(error) from error

    @staticmethod
    def _wait(client: JobsClient, id: str) -> None:
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while not client.info(id).has_ended:
            if time.monotonic() > deadline_s:
                raise RunFailedError(f"job {id} has not ended {STOP_TIMEOUT_S:g} s after it was told to")
            time.sleep(STOP_POLL_S)

    def sync(self, run: Path, submission: Submission, on_progress: Callable[[str], object]) -> None:
        """See `Launcher.sync`. The cluster is asked only if this machine does not see its results."""
        with client_of(submission) as client:
            bring(client, submission, run, small_only=False, on_progress=on_progress)


def client_of(submission: Submission) -> JobsClient:
    """Return a client for the cluster that a submission went to. The address was accepted when it was submitted."""
    token_file = submission.details.get("token_file")
    return JobsClient(
        parse_address(submission.target, insecure=True), token_file=Path(token_file) if token_file else None
    )


def status_of(info: JobInfo) -> SubmissionStatus:
    """Translate the state of a job."""
    if info.state == "FAILED" and info.exit_code == EXIT_TRY_AGAIN:
        return SubmissionStatus("interrupted", "it saved its work; submit it again to resume", EXIT_TRY_AGAIN)
    reason = (info.message.splitlines() or [""])[0] if info.state in ("PENDING", "FAILED") else ""
    return SubmissionStatus(_STATES.get(info.state, "unknown"), reason, info.exit_code)


def _followed(client: JobsClient, id: str) -> Iterator[str]:
    notices: list[str] = []
    for line in follow(client, id, on_notice=notices.append):
        yield from (f"[{notice}]" for notice in notices)
        notices.clear()
        yield line


def _no_answer(error: Exception) -> UserError:
    return UserError(first_line(error), remedy="check that the cluster runs and is reachable; then try again")


LAUNCHER: Launcher = RayJobLauncher()
