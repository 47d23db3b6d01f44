"""The process that holds a run directory, as it describes itself to other processes."""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")
NUMBERS = ("pid", "slurm_restart_count")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process. What is empty is unknown: files of earlier versions hold only owner, host and pid.

    `slurm_restart_count` counts the lives of a job before this one.
    """

    owner: str
    host: str
    pid: int
    boot_id: str = ""
    pid_namespace: str = ""
    slurm_cluster: str = ""
    slurm_job_id: str = ""
    slurm_restart_count: int = 0

    @property
    def is_gone(self) -> bool:
        """True when its process is known to have ended: one of this host, this boot and this pid namespace."""
        if not self._shares_process_ids:
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            return False
        return False

    @property
    def _shares_process_ids(self) -> bool:
        """Two machines may have one name, and a container its host's: then a pid means another process."""
        known = ((self.boot_id, _boot_id()), (self.pid_namespace, _pid_namespace()))
        return self.host == socket.gethostname() and all(its in ("", ours) for its, ours in known)

    def is_earlier_life_of(self, other: "Holder") -> bool:
        """Say whether `other` is a later life of the same SLURM job, which was requeued in between."""
        same_job = (self.slurm_cluster, self.slurm_job_id) == (other.slurm_cluster, other.slurm_job_id)
        return bool(self.slurm_job_id) and same_job and self.slurm_restart_count < other.slurm_restart_count

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job_id}" if self.slurm_job_id else ""
        life = f", life {self.slurm_restart_count}" if self.slurm_restart_count else ""
        return f"{self.host}, pid {self.pid}{job}{life}"


def this_process(environment: Mapping[str, str] = os.environ, *, shares: bool = False) -> Holder:
    """Return this process as a holder, with an owner that no other one has.

    The elements of a SLURM array are lives of one job, as in a chain, which runs them one after the other. If the
    process `shares` the run directory with others, they run at the same time, and each is a job of its own.
    """
    array, element = environment.get("SLURM_ARRAY_JOB_ID", ""), environment.get("SLURM_ARRAY_TASK_ID", "")
    counts = [environment.get("SLURM_RESTART_COUNT", ""), *([] if shares else [element])]
    job = f"{array}_{element}" if array and shares else array
    return Holder(
        owner=secrets.token_hex(16),
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        slurm_cluster=environment.get("SLURM_CLUSTER_NAME", ""),
        slurm_job_id=job or environment.get("SLURM_JOB_ID", ""),
        slurm_restart_count=sum(int(count) for count in counts if count.isdecimal()),
    )


def parse_holder(text: str | bytes) -> Holder | None:
    """Return the holder that `text` describes; None where it describes none."""
    try:
        value: Any = json.loads(text)
        kinds = {name: int if name in NUMBERS else str for name in Holder.__dataclass_fields__ if name in value}
        fields: dict[str, Any] = {name: kind(value[name]) for name, kind in kinds.items()}
        return Holder(**fields)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _pid_namespace() -> str:
    try:
        return str(PID_NAMESPACE.readlink())
    except OSError:
        return ""
