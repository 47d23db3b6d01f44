"""SLURM's commands: sbatch, squeue, scancel, scontrol, sinfo. sacct is never needed, and JSON is never read."""

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from moe_ray.clusters.slurm.deadline import seconds_of
from moe_ray.clusters.slurm.hosts import Host
from moe_ray.errors import UserError

STOP_TIMEOUT_S = 90.0
STOP_POLL_S = 0.5
NOT_LISTED = "Invalid job id"
_SHOWN_JOB = re.compile(r" JobState=(\S+) .*? Command=(.*?) WorkDir=")
# States in which a job neither runs nor waits.
OVER = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
WAITING = frozenset(
    {
        "EXPEDITING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT",
        "SUSPENDED",
    }
)  # fmt: skip
REASONS = {
    "Priority": "jobs with a higher priority come first",
    "Resources": "waiting until nodes are free",
    "BeginTime": "the requeued job waits for its start time",
    "PartitionConfig": "the partition has fewer nodes than requested, or allows less time",
    "PartitionTimeLimit": "no node of the partition allows this --time",
    "PartitionNodeLimit": "the partition allows fewer nodes",
    "ReqNodeNotAvail": "the nodes are down, reserved or needed sooner than this --time",
    "QOSMaxGRESPerUser": "your limit of GPUs is used up",
    "QOSMaxJobsPerUserLimit": "your limit of running jobs is reached",
    "AssocGrpGRES": "the account's limit of GPUs is used up",
    "DependencyNeverSatisfied": "the job that it depends on failed",
    "JobHeldUser": "held by you: scontrol release",
    "JobHeldAdmin": "held by an administrator",
}


class QueuedJob(NamedTuple):
    """A job as squeue shows it."""

    state: str
    reason: str
    nodes: str

    @property
    def is_waiting(self) -> bool:
        """True if the job waits for its start."""
        return self.state in WAITING

    @property
    def is_over(self) -> bool:
        """True if the job neither runs nor waits."""
        return self.state in OVER


class ShownJob(NamedTuple):
    """A job as `scontrol show job` prints it: its state, and the path of its batch script."""

    state: str
    script: str


class Partition(NamedTuple):
    """A partition and its time limit; None without one."""

    name: str
    is_default: bool
    limit_s: float | None


class SlurmScheduler:
    """The SLURM of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def submit(self, script: str, environment: Mapping[str, str] | None = None) -> str:
        """Submit a script and return the job's id. Raises `UserError` with sbatch's words when it is refused."""
        answer = self._host.run(["sbatch", "--parsable", script], environment=environment, timeout_s=60)
        if answer.code is None:
            raise UserError(
                answer.err or "sbatch gave no answer",
                where="sbatch",
                remedy="run this on a login node of the cluster, or check with `sinfo` that SLURM answers; if sbatch "
                "was slow, look with `squeue --me` whether the job is there",
            )
        if answer.code != 0:
            raise UserError(
                f"SLURM refused the job: {_words(answer.err)}",
                where="sbatch",
                remedy=f"change the options or the site file; {self._partitions_in_words()}",
            )
        return answer.out.strip().split(";")[0]

    def job(self, job_id: str) -> QueuedJob | None:
        """Return a job as squeue shows it; None when squeue fails, hangs, or does not list the job.

        Of the jobs of a chain it is the one that runs, else one that waits, else the first.
        """
        answer = self._host.run(["squeue", "-h", "-t", "all", "-S", "i", "-j", job_id, "-o", "%T|%r|%N"])
        rows = [line.strip().split("|") for line in answer.out.splitlines()] if answer.code == 0 else []
        jobs = [QueuedJob(*row) for row in rows if len(row) == 3]
        return min(jobs, key=lambda job: (job.is_over, job.is_waiting), default=None)

    def shown(self, job_id: str) -> list[ShownJob] | None:
        """Return a job, or all elements of an array, as `scontrol` shows them.

        Empty where SLURM says that it knows no such job, None when it fails, hangs, or prints something else.
        """
        answer = self._host.run(["scontrol", "show", "job", "-o", job_id])
        if answer.code != 0:
            return [] if answer.code is not None and NOT_LISTED in answer.err + answer.out else None
        return [ShownJob(*found) for found in _SHOWN_JOB.findall(answer.out)] or None

    def elements(self, job_id: str) -> dict[str, QueuedJob]:
        """Return the jobs of an array by their ids, such as 17_3; none when squeue fails, hangs, or lists none."""
        answer = self._host.run(["squeue", "-h", "-r", "-t", "all", "-j", job_id, "-o", "%i|%T|%r|%N"])
        rows = [line.strip().split("|") for line in answer.out.splitlines()] if answer.code == 0 else []
        return {row[0]: QueuedJob(*row[1:]) for row in rows if len(row) == 4}

    def is_gone(self, job_id: str) -> bool:
        """True if SLURM says that the job neither runs nor waits, and that no process of it is left."""
        jobs = self.shown(job_id)
        return jobs is not None and all(job.state in OVER for job in jobs)

    def cancel(self, job_id: str) -> None:
        """Cancel a job, and return when SLURM says that nothing of it is left. Raises `UserError` when it does not."""
        answer = self._host.run(["scancel", job_id])
        if answer.code != 0 and not self.is_gone(job_id):
            raise UserError(f"scancel failed: {_words(answer.err)}", where=f"job {job_id}", remedy="try again")
        if not _within(STOP_TIMEOUT_S, lambda: self.is_gone(job_id)):
            raise UserError(
                f"SLURM does not confirm within {STOP_TIMEOUT_S:g} s that the job has ended",
                where=f"job {job_id}",
                remedy=f"look with `squeue -j {job_id}`; the run directory forbids another start of it",
            )

    def partitions(self) -> list[Partition]:
        """Return the partitions; none when sinfo does not answer."""
        answer = self._host.run(["sinfo", "-h", "-o", "%P|%l"])
        rows = [line.split("|") for line in answer.out.splitlines()] if answer.code == 0 else []
        return [
            Partition(row[0].removesuffix("*"), row[0].endswith("*"), seconds_of(row[1]))
            for row in rows
            if len(row) == 2
        ]

    def require_time(self, wanted: str, partition: str | None) -> None:
        """Raise `UserError` when the partition allows no job of this length: SLURM would let it wait for ever."""
        found = self.partitions()
        chosen = [one for one in found if one.name == partition or (partition is None and one.is_default)]
        wanted_s = seconds_of(wanted) or 0.0
        if chosen and all(one.limit_s is not None and wanted_s > one.limit_s for one in chosen):
            raise UserError(
                f"partition {chosen[0].name} allows at most {_duration(chosen[0].limit_s)}, not {wanted}",
                where="--time",
                remedy=f"request less time (the job is requeued and resumes), or another partition; {_listed(found)}",
            )

    def require_array(self, number: int) -> None:
        """Raise `UserError` when the cluster allows no array of so many jobs. Nothing happens where SLURM is silent."""
        answer = self._host.run(["scontrol", "show", "config"])
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.out, re.MULTILINE)
        if found is not None and number >= int(found[1]):  # the largest index is one less
            raise UserError(
                f"this cluster allows arrays of {int(found[1]) - 1} jobs, not {number}",
                where="--array",
                remedy="request fewer jobs; each computes more of the run",
            )

    def _partitions_in_words(self) -> str:
        return _listed(self.partitions())


def reason_in_words(reason: str) -> str:
    """Say what squeue's reason for a waiting job means; its own word where that is unknown."""
    return f"{REASONS[reason]} ({reason})" if reason in REASONS else reason.replace("None", "")


def submit_environment(environment: Mapping[str, str], given: str) -> dict[str, str]:
    """Return the environment for sbatch, which SLURM stores with the job.

    Tokens of Ray are left out, and so are variables of another job and of sbatch: those override the options in the
    script. `SBATCH_ACCOUNT` and `SBATCH_PARTITION` count where the script, `given`, leaves them open.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(("RAY_", "SBATCH_", "SRUN_")) and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }
    for flag in ("ACCOUNT", "PARTITION"):
        name = f"SBATCH_{flag}"
        if name in environment and f"#SBATCH --{flag.lower()}=" not in given:
            kept[name] = environment[name]
    return kept


def clean_environment(script: str) -> dict[str, str]:
    """Return this process's environment as sbatch may have it."""
    return submit_environment(os.environ, script)


def _words(text: str) -> str:
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.strip().splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason was given"


def _duration(limit_s: float | None) -> str:
    if limit_s is None:
        return "any time"
    minutes = int(limit_s) // 60
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00" if days else f"{rest // 60:02}:{rest % 60:02}:00"


def _listed(partitions: list[Partition]) -> str:
    shown = ", ".join(f"{one.name} ({_duration(one.limit_s)})" for one in partitions)
    return f"partitions: {shown}" if shown else "`sinfo` lists partitions and limits"


def _within(timeout_s: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(STOP_POLL_S)
    return True
