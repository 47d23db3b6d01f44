"""The machine that a benchmark ran on, and what a process of it used."""

import os
import platform
from importlib.metadata import version

from moe_ray.execution.gpus import peak_resident_bytes


def machine_line(*packages: str) -> str:
    """The machine's cores and memory, and the versions of Python and of `packages`, in a line."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
    return f"{len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, {versions}"


def peak_memory_bytes() -> int:
    """The largest resident memory of this process so far."""
    return peak_resident_bytes(os.getpid())
