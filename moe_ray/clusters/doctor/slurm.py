"""Checks of SLURM's settings and of the job that this is in. Only `scontrol` is asked, which needs no database."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import CommandOutput, Machine

OLDEST = (22, 5)
MIN_KILL_WAIT_S = 5
MIN_LEFT_S = 600
MIN_ARRAY_SIZE = 2
SHOW_CONFIG = ("scontrol", "show", "config")


@check("slurm-controller", "warning")
def slurm_controller(machine: Machine) -> Iterator[Fault]:
    """SLURM's controller does not answer inside a job.

    `scontrol` is missing, as in many containers, or fails, or hangs. A run then knows its end time from the environment
    only, and cannot requeue itself.
    """
    if not machine.in_slurm_job and not machine.variable("SLURM_CONF"):
        return
    shown = machine.run(*SHOW_CONFIG)
    if shown is None:
        yield Fault("scontrol is not on PATH", f"SLURM job {machine.variable('SLURM_JOB_ID')}", "command -v scontrol")
    elif shown.code is None:
        yield Fault("scontrol does not answer in time", "scontrol show config was ended", "scontrol ping")
    elif shown.code != 0:
        yield Fault("scontrol fails", (shown.text.strip().splitlines() or ["no output"])[-1], "scontrol ping")


@check("slurm-requeue", "warning")
def slurm_requeue(machine: Machine) -> Iterator[Fault]:
    """This cluster does not requeue jobs.

    With JobRequeue=0 a job that loses its node, or is preempted, ends. A job that asks for it with --requeue is
    requeued nevertheless.
    """
    if _settings(machine).get("JobRequeue") == "0":
        yield Fault(
            "jobs are not requeued by default, so a lost node ends a run", "JobRequeue = 0", "sbatch --requeue SCRIPT"
        )


@check("slurm-kill-wait", "warning")
def slurm_kill_wait(machine: Machine) -> Iterator[Fault]:
    """Too little time is left to save between SIGTERM and SIGKILL.

    At its time limit a job gets SIGTERM, and after KillWait seconds SIGKILL. A run needs a few seconds to end.
    """
    seconds = re.match(r"\d+", _settings(machine).get("KillWait", ""))
    if seconds is not None and int(seconds[0]) < MIN_KILL_WAIT_S:
        yield Fault(
            f"a job has less than {MIN_KILL_WAIT_S} s between SIGTERM and SIGKILL",
            f"KillWait = {seconds[0]} s",
            "sbatch --signal=B:USR1@120 SCRIPT",
        )


@check("slurm-proctrack", "warning")
def slurm_proctrack(machine: Machine) -> Iterator[Fault]:
    """SLURM does not see all processes of a job.

    With proctrack/pgid, processes in a session of their own (Ray's) outlive the job and keep GPUs and ports.
    """
    kind = _settings(machine).get("ProctrackType", "")
    if kind == "proctrack/pgid":
        yield Fault("processes of a job may outlive it", f"ProctrackType = {kind}", "pgrep -u $USER -a raylet")


@check("slurm-preemption", "warning")
def slurm_preemption(machine: Machine) -> Iterator[Fault]:
    """Preempted jobs are cancelled, not requeued.

    With PreemptMode=CANCEL a preempted job does not come back by itself. Submitting the run again resumes it.
    """
    settings = _settings(machine)
    if settings.get("PreemptType", "preempt/none") != "preempt/none" and "CANCEL" in settings.get("PreemptMode", ""):
        yield Fault(
            "preempted jobs are cancelled, and do not come back",
            f"PreemptMode = {settings['PreemptMode']}",
            "sacctmgr show qos format=name,preemptmode",
        )


@check("slurm-arrays", "warning")
def slurm_arrays(machine: Machine) -> Iterator[Fault]:
    """SLURM refuses job arrays.

    The highest index of an array is MaxArraySize - 1, and 0 switches arrays off. `moe-ray slurm --chain` queues an
    array, for clusters that do not requeue jobs. Without one, a run is resumed by the same command.
    """
    largest = _settings(machine).get("MaxArraySize", "")
    if largest.isdecimal() and int(largest) < MIN_ARRAY_SIZE:
        yield Fault(
            "job arrays are switched off, so --chain cannot be used",
            f"MaxArraySize = {largest}",
            "scontrol show config | grep -E 'MaxArraySize|JobRequeue'",
        )


@check("slurm-version", "warning")
def slurm_version(machine: Machine) -> Iterator[Fault]:
    """SLURM is older than 22.05.

    moe_ray is tested with SLURM 22.05; older versions share the resources of steps in another way.
    """
    version = _settings(machine).get("SLURM_VERSION", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if len(numbers) == 2 and numbers < OLDEST:
        yield Fault("SLURM is older than 22.05", f"SLURM_VERSION = {version}", "sinfo --version")


@check("slurm-time-left", "warning")
def slurm_time_left(machine: Machine) -> Iterator[Fault]:
    """The job ends soon.

    Less than ten minutes are left: loading a model may take as long.
    """
    job = machine.variable("SLURM_JOB_ID")
    if not job:
        return
    end_s = machine.variable("SLURM_JOB_END_TIME")
    left_s = float(end_s) - datetime.now().timestamp() if end_s.isdecimal() else _left_s(machine, job)
    if left_s is not None and left_s < MIN_LEFT_S:
        yield Fault("the job ends in less than ten minutes", f"{max(0, int(left_s))} s are left", f"squeue -j {job}")


@check("slurm-variables", "warning")
def slurm_variables(machine: Machine) -> Iterator[Fault]:
    """Variables of SLURM contradict each other.

    With both SLURM_CPUS_PER_TASK and a number of CPUs in SLURM_TRES_PER_TASK, `srun` of some versions ends with
    "cpus-per-task set by two different environment variables".
    """
    by_kind = machine.variable("SLURM_TRES_PER_TASK")
    if machine.variable("SLURM_CPUS_PER_TASK") and re.search(r"(^|,)cpu[:=]", by_kind):
        yield Fault(
            "the CPUs of a task are set by two variables, which srun may refuse",
            f"SLURM_CPUS_PER_TASK={machine.variable('SLURM_CPUS_PER_TASK')} SLURM_TRES_PER_TASK={by_kind}",
            "unset SLURM_TRES_PER_TASK",
        )


def _settings(machine: Machine) -> Mapping[str, str]:
    """Return what `scontrol show config` prints; nothing where it does not answer."""
    shown = machine.run(*SHOW_CONFIG)
    return _pairs(shown, r"^(\w+)\s*=\s*(.*?)\s*$")


def _left_s(machine: Machine, job: str) -> float | None:
    shown = machine.run("scontrol", "show", "job", "-o", job)
    end = _pairs(shown, r"(?:^|\s)(EndTime)=(\S+)").get("EndTime", "")
    try:
        return (datetime.fromisoformat(end) - datetime.now()).total_seconds()
    except ValueError:
        return None


def _pairs(shown: CommandOutput | None, pattern: str) -> dict[str, str]:
    if shown is None or shown.code != 0:
        return {}
    return dict(re.findall(pattern, shown.text, re.MULTILINE))
