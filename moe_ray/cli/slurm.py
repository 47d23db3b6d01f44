"""`moe-ray slurm`: a command as a SLURM job, submitted here or on a login node."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from moe_ray.cli.terminal import output_console
from moe_ray.clusters.job_commands import JobCommand
from moe_ray.clusters.slurm.command import array_command, require_one_node, shared_command
from moe_ray.clusters.slurm.hosts import Host
from moe_ray.clusters.slurm.scheduler import SlurmScheduler, reason_in_words
from moe_ray.clusters.slurm.script import SlurmRequest, job_script, require_sensible
from moe_ray.clusters.slurm.site import load_site
from moe_ray.clusters.slurm.submit import submit
from moe_ray.clusters.submission import Submission, write_submission
from moe_ray.errors import UserError
from moe_ray.formatting import plural

SUBMIT_TIMEOUT_S = 300.0


class SubmittedRun(NamedTuple):
    """What `moe-ray slurm --json` prints."""

    run: str
    submission: Submission


def submit_job(
    job: JobCommand,
    request: SlurmRequest,
    site_file: Path | None,
    *,
    offline: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Check the files of a command, submit it, and say how to follow it; with `dry_run`, print the script alone."""
    site, console, run = load_site(site_file), output_console(soft_wrap=True), job.run.absolute()
    site = site.model_copy(update={"offline": site.offline or offline})
    require_one_node(job, request.nodes)
    command = shared_command(job) if request.array is None else array_command(job)
    if dry_run:
        require_sensible(request)
        console.print(job_script(request, site, run, run.name, command), end="")
        return
    if site.offline and job.experiment is not None:
        from moe_ray.cli.prefetch import require_prefetched

        require_prefetched(job.experiment, site)
    scheduler = SlurmScheduler(Host())
    submission = submit(scheduler, request, site, run, run.name, command)
    if as_json:
        console.print(json.dumps({"run": str(run), "submission": submission.model_dump(mode="json")}))
        return
    size = plural(request.array, "job") if request.array else plural(request.nodes, "node")
    console.print(f"Submitted job {submission.id} ({size}); results go to {run}")
    queued = scheduler.job(submission.id)
    if queued is not None and queued.state == "PENDING" and reason_in_words(queued.reason):
        console.print(f"It waits: {reason_in_words(queued.reason)}")
    _say_how_to_follow(run)


def submit_on_host(
    name: str,
    host_command: str,
    words: Sequence[str],
    request: SlurmRequest,
    site_file: Path | None,
    *,
    offline: bool,
    dry_run: bool,
) -> None:
    """Run `moe-ray slurm -- WORDS` on an ssh host, and record the submission below ./results, for the other commands.

    Raises `UserError` where the host cannot be reached, or with the host's own words where it refuses.
    """
    host, console = Host(name), output_console(soft_wrap=True)
    host.require_reachable()
    wanted = [f"--{key.replace('_', '-')}={value}" for key, value in asdict(request).items() if value is not None]
    site = [*([f"--site={site_file}"] if site_file else []), *(["--offline"] if offline else [])]
    last = "--dry-run" if dry_run else "--json"
    command = [*shlex.split(host_command), "slurm", *wanted, *site, last, "--", *words]
    answer = host.run(command, timeout_s=SUBMIT_TIMEOUT_S)
    if answer.code != 0:
        raise UserError(
            f"{name} refused: {(answer.err or answer.out).strip().removeprefix('error: ')}",
            where="--host",
            remedy=f"paths are those of {name}; --host-command says how moe-ray is started there",
        )
    if dry_run:
        console.print(answer.out, end="")
        return
    run = _record(name, answer.out)
    console.print(f"Submitted on {name}; `moe-ray sync {run}` fetches the results")
    _say_how_to_follow(run)


def _record(host: str, text: str) -> Path:
    """Record a submission that was made on `host`, as the command there printed it; return the local run directory."""
    try:
        there = TypeAdapter(SubmittedRun).validate_json(text.strip().splitlines()[-1])
    except (ValidationError, IndexError) as error:
        raise UserError(
            "printed no submission", where=f"moe-ray slurm on {host}", remedy="install the same version there"
        ) from error
    run = (Path("results") / Path(there.run).name).absolute()
    details = {**there.submission.details, "run": there.run}
    write_submission(run, there.submission.model_copy(update={"target": host, "details": details}))
    return run


def _say_how_to_follow(run: Path) -> None:
    output_console(soft_wrap=True).print(
        f"Follow it with: moe-ray status {run}; moe-ray logs {run} --follow; moe-ray stop {run}"
    )
