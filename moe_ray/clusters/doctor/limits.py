"""Checks of the limits of this process and this machine."""

import resource
from collections.abc import Iterator

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.execution.cores import control_groups
from moe_ray.formatting import size
from moe_ray.planning.memory import GIB

MIN_OPEN_FILES = 4096
# Ray raises its own limit to this, where the hard limit allows it.
RAY_OPEN_FILES = 65536
MIN_PROCESSES = 1024
MIN_SHM_BYTES = GIB // 2
# NCCL's buffers: some MiB for each channel and peer.
MIN_LOCKED_BYTES = GIB
NO_OVERCOMMIT = "2"
# What Ray takes for the machine may be this much more than what this process may use.
MEMORY_TOLERANCE = 1.1


@check("open-files", "warning")
def open_files(machine: Machine) -> Iterator[Fault]:
    """Too few files may be open at once.

    Ray opens sockets and files for each worker. It raises the soft limit of open files up to the hard limit, to at most
    65,536; with less than 4,096 connections fail under load. A hard limit is raised by the administrator.
    """
    soft, hard = machine.limit_of(resource.RLIMIT_NOFILE)
    most = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    if most and max(soft, min(max(most), RAY_OPEN_FILES)) < MIN_OPEN_FILES:
        yield Fault(
            f"at most {max(most)} files may be open, and Ray needs {MIN_OPEN_FILES}",
            f"limit of open files: {soft} (soft), {hard} (hard)",
            f"ulimit -Hn {RAY_OPEN_FILES}  # as root, or ask the administrator",
        )


@check("processes", "warning")
def processes(machine: Machine) -> Iterator[Fault]:
    """Too few processes may run.

    Ray starts several processes for each node and one for each worker, each with tens of threads, which count as
    processes. With too few a worker ends with "Resource temporarily unavailable".
    """
    soft, hard = machine.limit_of(resource.RLIMIT_NPROC)
    if machine.user_id != 0 and soft != resource.RLIM_INFINITY and soft < MIN_PROCESSES:
        yield Fault(
            f"at most {soft} processes and threads may run, and Ray needs about {MIN_PROCESSES}",
            f"limit of processes: {soft} (soft), {hard} (hard)",
            f"ulimit -u {hard if hard != resource.RLIM_INFINITY else 'unlimited'}",
        )
    allowed = _group_limit(machine, "pids", "pids.max", "pids.max")
    if allowed is not None and allowed < MIN_PROCESSES:
        yield Fault(
            f"the control group allows {allowed} processes and threads, and Ray needs about {MIN_PROCESSES}",
            "pids.max of this process's control group",
            "docker run --pids-limit=-1 ...  # or ask the administrator",
        )


@check("locked-memory", "warning")
def locked_memory(machine: Machine) -> Iterator[Fault]:
    """Too little memory may be locked for InfiniBand.

    Models that span GPUs of several nodes exchange data with NCCL, which locks the memory that InfiniBand's adapters
    read and write. With a low limit it ends with "Cannot allocate memory". Checked where there is such an adapter.
    """
    soft, hard = machine.limit_of(resource.RLIMIT_MEMLOCK)
    adapters = machine.root / "sys/class/infiniband"
    names = sorted(one.name for one in adapters.iterdir()) if adapters.is_dir() else []
    if names and machine.user_id != 0 and soft != resource.RLIM_INFINITY and soft < MIN_LOCKED_BYTES:
        allowed = "unlimited" if hard == resource.RLIM_INFINITY else str(hard // 1024)
        is_open = hard == resource.RLIM_INFINITY or hard >= MIN_LOCKED_BYTES
        yield Fault(
            f"at most {size(soft)} of memory may be locked, and NCCL needs more for InfiniBand",
            f"adapters: {', '.join(names)}; limit of locked memory: {soft} (soft), {hard} (hard) bytes",
            f"ulimit -l {allowed}  # before Ray starts"
            if is_open
            else "ulimit -Hl unlimited  # as root, or ask the administrator",
        )


@check("shared-memory", "warning")
def shared_memory(machine: Machine) -> Iterator[Fault]:
    """/dev/shm is too small for Ray's objects.

    Ray keeps objects in /dev/shm. Where it is too small, as the 64 MiB of a container by default, Ray uses files in its
    temporary folder instead, which is slow. In a SLURM job the pages in /dev/shm count to the job's memory.
    """
    path = machine.root / "dev/shm"
    usage = machine.usage(path) if path.is_dir() else None
    if usage is None or usage.free_bytes < MIN_SHM_BYTES:
        free = "does not exist" if usage is None else f"has {size(usage.free_bytes)} free"
        whole = "" if usage is None else f"{size(usage.total_bytes)} in all"
        yield Fault(
            f"/dev/shm is smaller than {size(MIN_SHM_BYTES)}",
            f"/dev/shm {free}; {whole}".rstrip("; "),
            "mount -o remount,size=50% /dev/shm  # as root; docker run --shm-size=8g for a container",
        )


@check("overcommit", "warning")
def overcommit(machine: Machine) -> Iterator[Fault]:
    """The kernel refuses memory that is reserved and not used.

    With vm.overcommit_memory=2 a process cannot reserve more than the machine has. Ray and CUDA reserve much more than
    they use, and end with "Cannot allocate memory".
    """
    if (machine.read("proc/sys/vm/overcommit_memory") or "").strip() == NO_OVERCOMMIT:
        yield Fault(
            "the kernel refuses to overcommit memory, which Ray and CUDA need",
            "vm.overcommit_memory = 2",
            "sysctl vm.overcommit_memory=0  # as root, or ask the administrator",
        )


@check("memory-limit", "warning")
def memory_limit(machine: Machine) -> Iterator[Fault]:
    """Ray would count more memory than this process may use.

    Ray reads the memory of the machine, or the limit of the outermost control group; the limit that SLURM sets for a
    job is in an inner one. The kernel then kills processes without a reason that Ray could report. Not checked where a
    cluster is named.
    """
    total = memory_total_bytes(machine)
    outermost = _number(machine.read("sys/fs/cgroup/memory/memory.limit_in_bytes"))
    outermost = outermost or _number(machine.read("sys/fs/cgroup/memory.max"))
    counted = min(total or 0, outermost or total or 0)
    allowed = memory_limit_bytes(machine)
    if machine.address is None and allowed is not None and counted > allowed * MEMORY_TOLERANCE:
        yield Fault(
            f"Ray would count {size(counted)} of memory, and this process may use {size(allowed)}",
            "the memory limit of this process's control group",
            f"ray start --head --memory={int(0.7 * allowed)} --object-store-memory={int(0.2 * allowed)}",
        )


def memory_total_bytes(machine: Machine) -> int | None:
    """Return the memory of the machine."""
    return _memory_bytes(machine, "MemTotal:")


def memory_available_bytes(machine: Machine) -> int | None:
    """Return the memory that a process could still get here, within the limit of its control group."""
    found = (_memory_bytes(machine, "MemAvailable:"), memory_limit_bytes(machine))
    return min((value for value in found if value is not None), default=None)


def memory_limit_bytes(machine: Machine) -> int | None:
    """Return the memory limit of this process's control group; None without one."""
    limit = _group_limit(machine, "memory", "memory.limit_in_bytes", "memory.max")
    total = memory_total_bytes(machine)
    return None if limit is None or (total is not None and limit >= total) else limit


def _memory_bytes(machine: Machine, name: str) -> int | None:
    lines = (line.split() for line in (machine.read("proc/meminfo") or "").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[:1] == [name]), None)


def _group_limit(machine: Machine, controller: str, name_v1: str, name_v2: str) -> int | None:
    """Return the smallest limit of this process's control group and those around it."""
    table = machine.read("proc/self/cgroup") or ""
    names = [folder / name_v1 for folder in control_groups(table, controller)]
    names += [folder / name_v2 for folder in control_groups(table, None)]
    found = (_number(machine.read(str(name))) for name in names)
    return min((value for value in found if value is not None), default=None)


def _number(text: str | None) -> int | None:
    value = (text or "").strip()
    return int(value) if value.isdecimal() else None
