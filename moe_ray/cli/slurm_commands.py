"""Commands of SLURM clusters. They read options; the work is in `moe_ray.cli.slurm`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moe_ray.cli import options as o

CpusPerNode = Annotated[
    int | None, typer.Option(min=1, help="CPUs on each node; default: cpus_per_gpu of the site file per GPU.")
]
MaxInterruptions = Annotated[
    int, typer.Option(min=0, help="Times that a job is requeued that reached its time limit or was preempted.")
]
Chain = Annotated[
    int, typer.Option(min=1, help="Queue so many jobs, one after the other, where SLURM may not requeue.")
]
Array = Annotated[
    int | None, typer.Option(min=1, help="Queue so many jobs of one node each, which share the run and its work.")
]
SubmitHost = Annotated[
    str | None, typer.Option(help="Submit on this ssh host; FILE and all other paths are paths there.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the run directory and the submission as JSON.")]
SiteFile = Annotated[Path | None, typer.Option(help="Site file: what is special about this cluster.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Nodes have no internet: check first that all that the run needs is there.")
]


class SlurmGroup(TyperGroup):
    """`moe-ray slurm FILE` is `moe-ray slurm submit FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `submit` in front of what is neither a command nor an option for help."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["submit", *args]
        return super().parse_args(ctx, args)


slurm_app = typer.Typer(
    cls=SlurmGroup,
    help="Run commands as SLURM jobs. `moe-ray slurm FILE` is short for `moe-ray slurm submit FILE`.",
    **o.GROUP,
)


@slurm_app.command()
def prefetch(
    file: o.ExperimentFile,
    site: SiteFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be downloaded, and stop.")] = False,
    set_: o.Set = None,
    model: o.Baseline = None,
) -> None:
    """Download all that an experiment takes from the hub, where nodes without network find it; run on a login node."""
    from moe_ray.cli.prefetch import prefetch as run_prefetch

    run_prefetch(file, o.Changes(set_ or [], model), site, dry_run=dry_run)


@slurm_app.command()
@o.takes_evaluate_options
def submit(
    context: typer.Context,
    words: o.JobWords,
    evaluation: o.EvaluateOptions,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs on each node; 0 runs on CPUs.")] = 0,
    time: Annotated[str, typer.Option(help="Time limit of one life of the job: minutes, HH:MM:SS, D-HH:MM:SS.")] = "60",
    site: SiteFile = None,
    offline: Offline = False,
    partition: Annotated[str | None, typer.Option(help="Partition; default: the site file's.")] = None,
    account: Annotated[str | None, typer.Option(help="Account; default: the site file's.")] = None,
    cpus_per_node: CpusPerNode = None,
    memory_per_node: Annotated[str | None, typer.Option(help="Memory on each node, such as 64G.")] = None,
    max_failures: Annotated[int, typer.Option(min=0, help="Times that a failed job is requeued.")] = 0,
    max_interruptions: MaxInterruptions = 100,
    chain: Chain = 1,
    array: Array = None,
    ready_timeout_s: Annotated[float, typer.Option(min=1, help="Time in which all nodes must join.")] = 120.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the job script, and submit nothing.")] = False,
    host: SubmitHost = None,
    host_command: Annotated[str, typer.Option(help="Command that starts moe-ray on --host.")] = "moe-ray",
    as_json: AsJson = False,
    results_dir: o.ResultsDir = None,
) -> None:
    """Run an experiment, or another command, as a SLURM job on one or more nodes; writes a readable script.

    `slurm FILE` evaluates the experiment, or resumes it. `slurm --nodes N -- COMMAND ...` runs another command of
    moe-ray with its own options, such as -- moe pretrain FILE --out results/NAME/experts.
    """
    from moe_ray.cli.job_words import job_command
    from moe_ray.cli.slurm import submit_job, submit_on_host
    from moe_ray.clusters.slurm.script import SlurmRequest

    request = SlurmRequest(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        time=time,
        cpus_per_node=cpus_per_node,
        memory_per_node=memory_per_node,
        partition=partition,
        account=account,
        max_failures=max_failures,
        max_interruptions=max_interruptions,
        ready_timeout_s=ready_timeout_s,
        chain=chain,
        array=array,
    )
    app = context.find_root().command
    command = o.command_words(app, words, evaluation, results_dir)
    if host is not None:
        submit_on_host(host, host_command, command, request, site, offline=offline, dry_run=dry_run)
    else:
        job = job_command(app, command)
        submit_job(job, request, site, offline=offline, dry_run=dry_run, as_json=as_json)
