"""`moe-ray submit`: package a command and its files, and start it as a Ray job."""

import secrets
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moe_ray.clusters.job_commands import JobCommand
from moe_ray.clusters.ray_jobs.access import parse_address, require_python
from moe_ray.clusters.ray_jobs.client import JobMissingError, JobsClient, JobsUnreachableError
from moe_ray.clusters.ray_jobs.follow import Notify
from moe_ray.clusters.ray_jobs.launcher import status_of
from moe_ray.clusters.ray_jobs.package import package_name
from moe_ray.clusters.ray_jobs.results import require_place
from moe_ray.clusters.ray_jobs.shipping import Shipment, shipment
from moe_ray.clusters.submission import (
    Submission,
    SubmissionState,
    next_attempt,
    write_submission,
)
from moe_ray.errors import RunFailedError, UserError
from moe_ray.fingerprint import fingerprint

DRIVER = "moe_ray.clusters.ray_jobs.driver"
AGENT_TIMEOUT_S = 120.0
RETRY_S = 2.0
HASH_CHARACTERS = 8
MAX_ATTEMPTS = 1000
_NONCE = "moe_ray_nonce"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What `moe-ray submit` was asked.

    `results` is where run directories go on the cluster: an absolute folder or an address of fsspec. `num_gpus` are
    for the process of a command that does not spread its work over the cluster; that process then runs on any node.
    """

    address: str
    results: str | None
    token_file: Path | None = None
    is_insecure: bool = False
    include: tuple[Path, ...] = ()
    on_cluster: tuple[Path, ...] = ()
    python: str = "python"
    num_gpus: float = 0.0
    mirror_period_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A job that was checked and packed; nothing was sent."""

    run: Path
    name: str
    results: str
    shipment: Shipment
    key: str

    def id(self, attempt: int) -> str:
        return f"moe-ray-{self.name}-{self.key}-{attempt}"


def plan_job(job: JobCommand, request: JobRequest) -> JobPlan:
    """Check a request and pack its files. Raises `UserError`; asks no cluster."""
    require_python(request.python)
    if request.num_gpus and job.is_on_ray:
        raise UserError(
            f"`{' '.join(job.name)}` reserves GPUs for its models by itself",
            where="--gpus",
            remedy="leave --gpus out",
        )
    results = require_place(request.results or str(job.run.parent))
    shipped = shipment(job, include=request.include, on_cluster=request.on_cluster)
    # One run has one id, so that a job of it that another machine submitted is noticed.
    identity = job.run.name if job.experiment is None else job.experiment.config.model_dump(mode="json")
    return JobPlan(
        run=job.run,
        name=job.run.name,
        results=results,
        shipment=shipped,
        key=fingerprint({"results": results, "run": identity}, num_hex=HASH_CHARACTERS),
    )


@contextmanager
def open_client(request: JobRequest, on_notice: Notify) -> Iterator[JobsClient]:
    """Connect to the Jobs API, and show what answers. Raises `UserError` where nothing does."""
    address = parse_address(request.address, insecure=request.is_insecure)
    with JobsClient(address, token_file=request.token_file) as client:
        try:
            on_notice(f"Ray {client.ray_version()} at {client.address.url}")
        except JobsUnreachableError as error:
            raise UserError(
                str(error),
                where=f"--address {request.address}",
                remedy="check that the cluster runs and that its dashboard's port is reachable from here",
            ) from error
        yield client


def start_job(client: JobsClient, plan: JobPlan, request: JobRequest, on_notice: Notify) -> Submission:
    """Upload the package, write the record into the run directory, and start the job.

    A run that was submitted before gets the next attempt, which resumes it. Raises `UserError` while the earlier one
    is alive.
    """
    attempt = next_attempt(plan.run, lambda previous: _state(client, previous))
    archive = plan.shipment.package.archive()
    name = package_name(archive)
    try:
        is_new = client.upload(name, archive)
    except (JobsUnreachableError, JobMissingError) as error:
        raise RunFailedError(f"the package was not sent: {error}\n  remedy: run the same command again") from error
    on_notice(f"Package: {plan.shipment.package.summary}{'' if is_new else ', already on the cluster'}")
    while True:
        submission = _submission(client, plan, request, attempt)
        write_submission(plan.run, submission)
        if _is_started(client, submission, f"gcs://{name}", _entrypoint(plan, request, submission.id), request):
            on_notice(f"Job {submission.id} is submitted; attempt {attempt}")
            return submission
        attempt += 1


def _state(client: JobsClient, previous: Submission) -> SubmissionState | None:
    """Return what this cluster says about an earlier submission to it; None for one to elsewhere."""
    if previous.kind != "ray-job" or previous.target != client.address.url:
        return None
    try:
        return status_of(client.info(previous.id)).state
    except (JobsUnreachableError, JobMissingError):
        return "unknown"


def _submission(client: JobsClient, plan: JobPlan, request: JobRequest, attempt: int) -> Submission:
    details = {"results": f"{plan.results}/{plan.name}", "python": request.python}
    if request.token_file is not None:
        details["token_file"] = str(request.token_file.absolute())
    return Submission(
        kind="ray-job",
        id=plan.id(attempt),
        target=client.address.url,
        command=plan.shipment.command,
        submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        attempt=attempt,
        details=details,
    )


def _entrypoint(plan: JobPlan, request: JobRequest, id: str) -> str:
    arguments = ["--results", plan.results, "--name", plan.name, "--id", id]
    arguments += [f"--mirror-period-s={request.mirror_period_s:g}", "--", *plan.shipment.command]
    return shlex.join([request.python, "-m", DRIVER, *arguments])


def _is_started(client: JobsClient, submission: Submission, package: str, entrypoint: str, request: JobRequest) -> bool:
    """Start the job; False where a job of another machine's submission has this id, and has ended.

    A request whose answer is lost may have started the job: the job's own metadata tell. Right after a cluster's start
    no agent takes jobs, so the request is repeated for a while.
    """
    nonce, deadline_s = secrets.token_hex(8), time.monotonic() + AGENT_TIMEOUT_S
    runtime_env = {"working_dir": package, "env_vars": {"PYTHONUNBUFFERED": "1"}}
    while True:
        try:
            client.submit(
                id=submission.id,
                entrypoint=entrypoint,
                runtime_env=runtime_env,
                metadata={_NONCE: nonce},
                num_gpus=request.num_gpus,
            )
            return True
        except (JobsUnreachableError, JobMissingError) as error:
            reason = error
        try:
            found = client.info(submission.id)
            if found.metadata.get(_NONCE) == nonce:
                return True
            if not found.has_ended:
                raise UserError(
                    f"job {submission.id}, submitted from elsewhere, is {found.state.lower()}",
                    where=client.address.url,
                    remedy="wait for its end, or end it with `ray job stop`",
                )
            return False
        except (JobsUnreachableError, JobMissingError):
            if time.monotonic() > deadline_s:
                raise RunFailedError(
                    f"the cluster did not start the job: {reason}\n  remedy: check its dashboard and its agent's log, "
                    "then run the same command again"
                ) from reason
            time.sleep(RETRY_S)
