"""One small actor on each node: it tells the node's hardware, and sees processes end."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

from moe_ray.execution import gpus

POLL_S = 0.02
# Other processes' memory moves too: this much more than before is still "came back".
RETURN_TOLERANCE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHardware:
    """What a node is made of."""

    hostname: str
    platform: str
    num_cpus: int
    memory_bytes: int
    gpu_names: tuple[str, ...]
    gpu_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """How a process left: whether it is gone, and what its GPUs held afterwards."""

    gone: bool
    memory_returned: bool
    gpu_bytes: int | None


class NodeAgent:
    """Runs on one node, outside every model's process."""

    def hardware(self) -> NodeHardware:
        """Describe this node."""
        import psutil

        readings = gpus.read_gpus()
        return NodeHardware(
            hostname=platform.node(),
            platform=platform.platform(),
            num_cpus=len(os.sched_getaffinity(0)),
            memory_bytes=psutil.virtual_memory().total,
            gpu_names=tuple(reading.name for reading in readings),
            gpu_bytes=tuple(reading.total_bytes for reading in readings),
        )

    def await_departure(self, pid: int, uuids: Sequence[str], bytes_before: int | None, timeout_s: float) -> Departure:
        """Wait until process `pid` has ended and its GPUs hold no more than before it came, or the time is up."""
        import psutil

        deadline = time.monotonic() + timeout_s
        while True:
            gone = not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
            now = gpus.used_bytes(uuids) if uuids else None
            returned = now is None or bytes_before is None or now <= bytes_before + RETURN_TOLERANCE_BYTES
            if (gone and returned) or time.monotonic() > deadline:
                return Departure(gone=gone, memory_returned=returned, gpu_bytes=now)
            time.sleep(POLL_S)
