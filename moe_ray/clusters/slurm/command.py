"""The command of a job as its nodes run it: with absolute paths, on files that were read once before it waits."""

from pathlib import Path

from moe_ray.clusters.job_commands import CommandWord, JobCommand, is_on_experiment
from moe_ray.config.load import load_experiment
from moe_ray.config.schema import is_local_path
from moe_ray.errors import UserError
from moe_ray.execution.discovery import AUTO
from moe_ray.specialisation.texts import EXPERIMENT_SUFFIXES

SHARED = "--shared"


def shared_command(job: JobCommand) -> list[str]:
    """Return the command with absolute paths, which all nodes must see. Raises `UserError` for a file with mistakes."""
    command = [*job.name]
    for word in job.words:
        if word.parameter != "results_dir":
            command += _shared(word)
    if is_on_experiment(command):
        command.append(f"--results-dir={job.run.absolute().parent}")
    return command


def array_command(job: JobCommand) -> list[str]:
    """Return the command of each job of an array. Raises `UserError` for one that jobs cannot share."""
    if job.name != ("evaluate",):
        raise UserError(
            f"the jobs of an array cannot share the work of `{' '.join(job.name)}`",
            where="--array",
            remedy="leave --array out",
        )
    command = shared_command(job)
    return command if SHARED in command else [*command, SHARED]


def require_one_node(job: JobCommand, num_nodes: int) -> None:
    """Raise `UserError` for nodes that a command could not use."""
    if num_nodes > 1 and not job.is_on_ray:
        raise UserError(
            f"`{' '.join(job.name)}` computes on one node, and {num_nodes} are requested",
            where="--nodes",
            remedy="leave --nodes out",
        )


def _shared(word: CommandWord) -> list[str]:
    if word.value is None or word.role is None:
        return word.plain
    name, given = word.named
    path = Path(given).expanduser().absolute()
    if word.role == "model" and not path.exists() and not is_local_path(given):
        return word.plain
    if word.role not in ("out", "run", "experiment") and not path.exists():
        raise UserError(f"there is no {path}", where=word.option or word.parameter, remedy="check the path")
    _require_sound(word, path)
    return word.spelled(f"{name}{path}")


def _require_sound(word: CommandWord, path: Path) -> None:
    """Read a file of settings, whose mistakes would otherwise end the job after it has waited."""
    if word.role == "pretraining":
        from moe_ray.moe.btx.request import load_pretrain_config

        address = load_pretrain_config(path).runtime.address
        if address not in (None, AUTO):
            raise UserError(
                f"names the cluster {address}, and the job starts its own",
                where=f"{path}, runtime.address",
                remedy="leave it out: the job's cluster is joined",
            )
    elif word.role == "gate":
        from moe_ray.moe.merge.request import load_gate_config

        load_gate_config(path)
    elif word.role == "graders" or (word.role == "texts" and path.suffix in EXPERIMENT_SUFFIXES):
        load_experiment(path)
