"""Commands of submitted runs. Like `cli.main`, it only reads options."""

from pathlib import Path
from typing import Annotated

import typer

from moe_ray.cli import options as o

Address = Annotated[str, typer.Option(metavar="URL", help="The cluster's dashboard: http://localhost:8265.")]
ResultsPlace = Annotated[
    str | None,
    typer.Option(
        "--results-dir",
        metavar="PLACE",
        help="Where run directories go on the cluster: an absolute folder, or s3://BUCKET/PREFIX; "
        "default: the folder of the run directory, if that is absolute.",
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the cluster's token; default: RAY_AUTH_TOKEN_PATH.")
]
Include = Annotated[
    list[Path] | None, typer.Option("--include", metavar="PATH", help="Send this file or folder too; repeatable.")
]
OnCluster = Annotated[
    list[Path] | None,
    typer.Option(
        "--on-cluster", metavar="FOLDER", help="Paths below it mean the cluster's disks: nothing is sent; repeatable."
    ),
]


def add_cluster_commands(app: typer.Typer) -> None:
    """Add `submit`, `status`, `logs`, `stop` and `sync`."""
    for command in (submit, status, logs, stop, sync):
        app.command()(command)


@o.takes_evaluate_options
def submit(
    context: typer.Context,
    words: o.JobWords,
    address: Address,
    evaluation: o.EvaluateOptions,
    results: ResultsPlace = None,
    token_file: TokenFile = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept http:// to another machine: code and token go unencrypted.")
    ] = False,
    include: Include = None,
    on_cluster: OnCluster = None,
    python: Annotated[str, typer.Option(metavar="PATH", help="Python on the cluster's head node.")] = "python",
    num_gpus: Annotated[
        float,
        typer.Option(
            "--gpus",
            metavar="N",
            min=0,
            help="GPUs for a command that loads a model in its own process; evaluate reserves its own.",
        ),
    ] = 0.0,
    mirror_period_s: Annotated[
        float, typer.Option("--mirror-period", metavar="SECONDS", min=1, help="Time between two copies to s3://...")
    ] = 30.0,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the job is submitted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files that would be sent, and stop.")] = False,
) -> None:
    """Run an experiment, or another command, as a job on a Ray cluster, or resume it; bring its small results home.

    `submit FILE` evaluates the experiment. `submit --address URL -- COMMAND ...` runs another command of moe-ray with
    its own options, such as -- specialise ablate MODEL --texts FILE --out results/NAME/ablation. The exit code is that
    of the command; 130 if the job was stopped. Ctrl-C leaves the job running.
    """
    from moe_ray.cli.cluster import submit_job
    from moe_ray.cli.job_words import job_command
    from moe_ray.clusters.ray_jobs.submit import JobRequest

    request = JobRequest(
        address=address,
        results=results,
        token_file=token_file,
        is_insecure=insecure,
        include=tuple(include or ()),
        on_cluster=tuple(on_cluster or ()),
        python=python,
        num_gpus=num_gpus,
        mirror_period_s=mirror_period_s,
    )
    app = context.find_root().command
    job = job_command(app, o.command_words(app, words, evaluation))
    submit_job(job, request, detach=detach, dry_run=dry_run)


def status(
    run: o.RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Accept the cluster that the run directory of another user names.")
    ] = False,
) -> None:
    """Print the state of a submitted run."""
    from moe_ray.cli.cluster import show_status

    show_status(run, trust=trust, as_json=as_json)


def logs(
    run: o.RunPath,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> None:
    """Print the log of a submitted run."""
    from moe_ray.cli.cluster import show_logs

    show_logs(run, follow=follow)


def stop(run: o.RunPath) -> None:
    """End a submitted run; submitting it again resumes."""
    from moe_ray.cli.cluster import stop_run

    stop_run(run)


def sync(run: o.RunPath) -> None:
    """Copy a submitted run's directory from the cluster, small results first; the same command resumes."""
    from moe_ray.cli.cluster import sync_run

    sync_run(run)
