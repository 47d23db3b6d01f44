"""Examine every node at once: with one `srun` inside a SLURM job, or with one task on each node of a Ray cluster."""

import fcntl
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from moe_ray.clusters.doctor.compare import NodeAnswers, compared
from moe_ray.clusters.doctor.machine import Machine, nearest_existing
from moe_ray.clusters.doctor.report import NodeReport
from moe_ray.clusters.doctor.request import MARK, DoctorRequest
from moe_ray.clusters.doctor.results import LOCKED, SEEN
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import UserError

# Starting a step and Python on a node that reads them from a shared disk.
START_S = 25.0
NAMES_TIMEOUT_S = 5.0
# Variables with which srun would start other tasks than one on each node.
STEP_VARIABLES = (
    "SLURM_CPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE",
    "SLURM_DISTRIBUTION", "SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_GPU",
)  # fmt: skip
NUM_REASON_LINES = 3
ON_NODE = "moe_ray.cli.doctor_on_node"


def examine_nodes(request: DoctorRequest, experiment: LoadedExperiment | None) -> list[NodeReport]:
    """Return a report of every node, with what differs between them.

    Raises `UserError` outside of a SLURM job where no Ray cluster is named, and when no node answers.
    """
    machine = Machine.here(experiment)
    with _meeting(experiment) as meeting:
        request = request.model_copy(update={"meeting": meeting})
        if machine.in_slurm_job:
            answered = _by_srun(request, machine.environment)
        elif machine.address is not None:
            from moe_ray.clusters.doctor.on_ray import ask_by_ray

            answered = ask_by_ray(request, machine.address)
        else:
            raise UserError(
                "there are no other nodes: this is no SLURM job, and no Ray cluster is named",
                where="--nodes",
                remedy="run it inside salloc or a batch script, or set RAY_ADDRESS or runtime.address",
            )
    if not answered.reports:
        raise UserError(
            f"no node answered: {answered.reason or 'no output'}",
            where="--nodes",
            remedy="check that srun starts a command: srun --overlap --ntasks-per-node=1 hostname",
        )
    return compared(answered)


def _by_srun(request: DoctorRequest, environment: Mapping[str, str]) -> NodeAnswers:
    names = _node_names(environment)
    command = [
        "srun", "--overlap", "--no-kill", "--kill-on-bad-exit=0", f"--nodes={len(names)}", f"--ntasks={len(names)}",
        "--ntasks-per-node=1", "--cpus-per-task=1", "--input=none",
        sys.executable, "-P", "-m", ON_NODE, request.model_dump_json(),
    ]  # fmt: skip
    asked_at_s = time.time()
    shown, reason = _output(command, environment, request.limit_s + START_S)
    reports = list(_reports(shown))
    answering = {report.node for report in reports}
    return NodeAnswers(
        reports=reports,
        silent=[name for name in names if name not in answering],
        reason=reason,
        asked_at_s=asked_at_s,
        answered_at_s=time.time(),
    )


def _node_names(environment: Mapping[str, str]) -> list[str]:
    nodes = environment.get("SLURM_JOB_NODELIST", "")
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=NAMES_TIMEOUT_S, check=True, env=dict(environment)
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"cannot find the names of the job's nodes ({nodes})",
            where="--nodes",
            remedy=f"check that {' '.join(command)} works here: {error}",
        ) from error
    return done.stdout.split()


def _output(command: list[str], environment: Mapping[str, str], limit_s: float) -> tuple[str, str]:
    """Return what `srun` printed on its standard output, and why nodes may be missing in it."""
    if shutil.which(command[0]) is None:
        return "", "srun is not on PATH"
    kept = {name: value for name, value in environment.items() if name not in STEP_VARIABLES}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept
    ) as process:
        try:
            shown, errors = process.communicate(timeout=limit_s)
            late = ""
        except subprocess.TimeoutExpired:
            process.terminate()
            shown, errors = process.communicate()
            late = f"srun did not end within {limit_s:g} s; "
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    return shown, late + "; ".join(lines[-NUM_REASON_LINES:])


def _reports(shown: str) -> Iterator[NodeReport]:
    for line in shown.splitlines():
        _, mark, text = line.partition(MARK)
        if mark:
            with suppress(ValidationError):
                yield NodeReport.model_validate_json(text)


@contextmanager
def _meeting(experiment: LoadedExperiment | None) -> Iterator[Path | None]:
    """Make a folder where the results will be, with a file that the nodes must see and one whose lock is held.

    None without an experiment, and where nothing can be written: another check says so.
    """
    if experiment is None:
        yield None
        return
    config = experiment.config
    folder = nearest_existing(config.output.results_dir.expanduser() / config.name)
    meeting = folder / f".moe-ray-doctor-{secrets.token_hex(8)}"
    try:
        meeting.mkdir()
    except OSError:
        yield None
        return
    try:
        (meeting / f"{SEEN}.tmp").touch()
        (meeting / f"{SEEN}.tmp").rename(meeting / SEEN)
        with _held(meeting / LOCKED):
            yield meeting
    finally:
        shutil.rmtree(meeting, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock on a new file; where the file system cannot lock, there is no file."""
    with path.open("xb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            path.unlink()
        yield
