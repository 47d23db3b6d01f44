"""The batch script of a job."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

from moe_ray.clusters.slurm.deadline import SAVE_MARGIN_S, seconds_of
from moe_ray.clusters.slurm.site import SiteConfig
from moe_ray.errors import UserError

MAX_NODES = 10_000
SCRIPT_FILE = "job.sh"
# The hub's libraries then read their caches, and make no request that nothing would answer.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
TEMPLATE = Path(__file__).with_name("job.sh.j2")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmRequest:
    """What the command line asks of SLURM. `cpus_per_node` and `memory_per_node` are None for the site's."""

    nodes: int
    gpus_per_node: int
    time: str
    cpus_per_node: int | None = None
    memory_per_node: str | None = None
    partition: str | None = None
    account: str | None = None
    max_failures: int = 0
    max_interruptions: int = 100
    ready_timeout_s: float = 120.0
    chain: int = 1
    array: int | None = None


def require_sensible(request: SlurmRequest) -> None:
    """Raise `UserError` for a request that no cluster could understand."""
    seconds = seconds_of(request.time)
    if not seconds:
        raise UserError(
            f"{request.time!r} is not a duration",
            where="--time",
            remedy="write minutes, HH:MM:SS or D-HH:MM:SS: --time 04:00:00",
        )
    if request.array is not None:
        _require_array(request, request.array)
    if request.nodes > MAX_NODES:
        raise UserError(f"{request.nodes} nodes", where="--nodes", remedy=f"at most {MAX_NODES}")


def _require_array(request: SlurmRequest, number: int) -> None:
    if request.nodes != 1:
        raise UserError(
            f"the jobs of an array have one node each, not {request.nodes}",
            where="--nodes",
            remedy=f"leave out --nodes, or run one job on {request.nodes} nodes without --array",
        )
    if request.chain > 1:
        raise UserError(
            "an array and a chain cannot be combined", where="--chain", remedy="leave out --chain or --array"
        )
    if not 1 <= number <= MAX_NODES:
        raise UserError(f"{number} jobs", where="--array", remedy=f"1 to {MAX_NODES}")


def job_script(request: SlurmRequest, site: SiteConfig, run: Path, name: str, command: Sequence[str]) -> str:
    """Return the script of a job that runs `moe-ray COMMAND` with the results in `run`."""
    cpus = request.cpus_per_node or site.cpus_per_gpu * max(1, request.gpus_per_node)
    return _template().render(
        flags=_flags(request, site, run, name, cpus),
        run=shlex.quote(str(run)),
        prefix="\n".join(site.prefix),
        environment=[(key, shlex.quote(value)) for key, value in _environment(site).items()],
        cpus=cpus,
        python=site.python_command,
        agent_options=_agent_options(request, site),
        command=_wrapped(command),
        shares=request.array is not None,
        # SLURM_JOB_ID of an element may be the id of the whole array.
        job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if request.array or request.chain > 1 else "$SLURM_JOB_ID",
    )


def _flags(request: SlurmRequest, site: SiteConfig, run: Path, name: str, cpus: int) -> list[str]:
    partition, account = request.partition or site.partition, request.account or site.account
    memory = request.memory_per_node or site.memory_per_node
    flags = [
        f"--job-name=moe-ray-{name}",
        f"--nodes={request.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={cpus}",
        *([_gpu_flag(request.gpus_per_node, site)] if request.gpus_per_node else []),
        *([f"--mem={memory}"] if memory else []),
        f"--time={request.time}",
        *([f"--partition={partition}"] if partition else []),
        *([f"--account={account}"] if account else []),
        f"--output={_output(run, request)}",
        "--open-mode=append",
        "--no-kill",
        *_repetition(request),
        f"--signal=B:USR1@{int(SAVE_MARGIN_S)}",
    ]
    return [*flags, *site.sbatch]


def _repetition(request: SlurmRequest) -> list[str]:
    """How further lives of the job come: by requeue, or as elements of an array that runs one at a time."""
    if request.chain > 1:
        return [f"--array=1-{request.chain}%1", "--no-requeue"]
    return [*([f"--array=1-{request.array}"] if request.array else []), "--requeue"]


def _output(run: Path, request: SlurmRequest) -> str:
    """The path of the log. sbatch replaces % in it, and splits at blanks unless it is quoted."""
    job = "%A_%a" if request.array else "%A" if request.chain > 1 else "%j"
    return shlex.quote(str(run / "slurm").replace("%", "%%") + f"/job-{job}.log")


def _gpu_flag(num_gpus: int, site: SiteConfig) -> str:
    typed = f"{site.gpu_type}:" if site.gpu_type else ""
    return f"--gres=gpu:{typed}{num_gpus}" if site.gpu_request == "gres" else f"--gpus-per-node={typed}{num_gpus}"


def _environment(site: SiteConfig) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", **(OFFLINE if site.offline else {}), **site.environment}


def _agent_options(request: SlurmRequest, site: SiteConfig) -> str:
    options = [f"--gpus={request.gpus_per_node}", f"--temp-dir={site.temp_dir}"]
    options += [f"--interface={site.interface}"] if site.interface else []
    options += [f"--ready-timeout={request.ready_timeout_s:g}"]
    options += [f"--max-failures={request.max_failures}", f"--max-interruptions={request.max_interruptions}"]
    options += ["--chain"] if request.chain > 1 else []
    options += ["--shares"] if request.array else []
    return shlex.join([*options, *_staging_options(site)])


def _staging_options(site: SiteConfig) -> list[str]:
    if site.staging is None:
        return []
    keep, limit = site.staging.keep, site.staging.max_gib
    options = [f"--staging={site.staging.folder}", *(["--staging-keep"] if keep else [])]
    return [*options, *([f"--staging-max-gib={limit}"] if limit is not None else [])]


def _wrapped(command: Sequence[str]) -> str:
    """The command with each option on a line of its own."""
    lines: list[list[str]] = [[]]
    for word in command:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(shlex.join(line) for line in lines)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
