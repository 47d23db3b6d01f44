"""Commands of submitted runs: submit, status, logs, stop, sync."""

import json
from pathlib import Path

import typer

from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.clusters.job_commands import JobCommand
from moe_ray.clusters.ray_jobs.client import JobsClient
from moe_ray.clusters.ray_jobs.follow import final_state, follow
from moe_ray.clusters.ray_jobs.package import PackedFile
from moe_ray.clusters.ray_jobs.submit import JobPlan, JobRequest, open_client, plan_job, start_job
from moe_ray.clusters.ray_jobs.transfer import bring
from moe_ray.clusters.submission import Submission, launcher_for, open_submission
from moe_ray.errors import UserError
from moe_ray.execution import interruption
from moe_ray.formatting import plural, size

EXIT_NO_PROGRAM = 127  # of a shell


def submit_job(job: JobCommand, request: JobRequest, *, detach: bool, dry_run: bool) -> None:
    """Submit a command, follow it to its end, and copy its small results. Exits with the exit code of the command."""
    console = output_console(soft_wrap=True)
    plan = plan_job(job, request)
    if dry_run:
        _show_package(console, plan)
        return
    with open_client(request, console.print) as client:
        submission = start_job(client, plan, request, console.print)
        if detach:
            console.print(f"moe-ray status {plan.run} asks for it; moe-ray sync {plan.run} brings its results")
            return
        try:
            code = _follow(console, client, submission)
        except KeyboardInterrupt:
            console.print(
                f"\nThe job goes on. moe-ray logs {plan.run} --follow shows it again, moe-ray stop {plan.run} ends it."
            )
            raise
        _bring_small_results(console, client, plan.run, submission)
    raise typer.Exit(code)


def _follow(console: Terminal, client: JobsClient, submission: Submission) -> int:
    def notice(text: str) -> None:
        console.print(f"[{text}]")

    for line in follow(client, submission.id, on_notice=notice):
        console.print(line)
    interruption.check()
    info = final_state(client, submission.id, on_notice=notice)
    code = info.exit_code or 0
    console.print(f"\nJob {submission.id}: {info.state.lower()}, exit code {code}")
    if info.state == "FAILED" and info.driver_exit_code is None:
        console.print(info.message)
    if code == EXIT_NO_PROGRAM:
        console.print("remedy: name the Python that has moe_ray's dependencies on the head: --python /path/to/python")
    return code


def _bring_small_results(console: Terminal, client: JobsClient, run: Path, submission: Submission) -> None:
    """Copy what is small. That it cannot be copied here does not change how the run ended."""
    place = submission.details["results"]
    try:
        num_copied = bring(client, submission, run, small_only=True, on_progress=lambda _path: None)
    except UserError as error:
        console.print(f"Results stay on the cluster in {place}: {error}")
        return
    console.print(f"Results: {run} ({plural(num_copied, 'file')} copied from {place}); moe-ray sync {run} copies all")


def _show_package(console: Terminal, plan: JobPlan) -> None:
    package = plan.shipment.package

    def name(entry: tuple[str, PackedFile]) -> str:
        return entry[0]

    for path, file in sorted(package.files.items(), key=name):
        console.print(f"{size(file.size_bytes):>10}  {path}")
    console.print(f"Package: {package.summary}")
    for path in plan.shipment.on_cluster:
        console.print(f"expected on the nodes: {path}")


def show_status(run: Path, *, trust: bool, as_json: bool) -> None:
    """Print the state of a submitted run."""
    submission = open_submission(run, trust=trust)
    found = launcher_for(submission).status(run, submission)
    console = output_console(soft_wrap=True)
    if as_json:
        console.print(json.dumps({**submission.model_dump(), **found._asdict()}))
        return
    code = "" if found.exit_code is None else f", exit code {found.exit_code}"
    console.print(f"{found.state}{code}{f': {found.reason}' if found.reason else ''}")
    where = f" at {submission.target}" if submission.target else ""
    console.print(f"{submission.kind} {submission.id}{where}, attempt {submission.attempt}, {submission.submitted_at}")


def show_logs(run: Path, *, follow: bool) -> None:
    """Print the log of a submitted run; with `follow`, until it ends."""
    submission = open_submission(run)
    console = output_console(soft_wrap=True)
    for line in launcher_for(submission).logs(run, submission, follow=follow):
        console.print(line)


def stop_run(run: Path) -> None:
    """End a submitted run."""
    submission = open_submission(run)
    launcher_for(submission).stop(run, submission)
    output_console(soft_wrap=True).print(f"{submission.id} is stopped; submitting the run again resumes it")


def sync_run(run: Path) -> None:
    """Copy a submitted run's directory from the cluster."""
    submission = open_submission(run)
    console = output_console(soft_wrap=True)
    launcher_for(submission).sync(run, submission, console.print)
    console.print(f"{run} has all that the cluster has of it")
