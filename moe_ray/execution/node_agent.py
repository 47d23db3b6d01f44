"""A small actor on each node, which reports hardware and watches processes end."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moe_ray.execution import gpus
from moe_ray.execution.cores import usable_cores
from moe_ray.store.answers import Answer

POLL_S = 0.02
# Other processes' memory moves too: this much more than before is still "came back".
RETURN_TOLERANCE_BYTES = 64 << 20
# Drivers free memory within a second of a process's end; after longer, another process has taken it.
RETURN_TIMEOUT_S = 10.0


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
            num_cpus=usable_cores(),
            memory_bytes=psutil.virtual_memory().total,
            gpu_names=tuple(reading.name for reading in readings),
            gpu_bytes=tuple(reading.total_bytes for reading in readings),
        )

    def await_departure(self, pid: int, uuids: Sequence[str], bytes_before: int | None, timeout_s: float) -> Departure:
        """Wait until process `pid` has ended and its GPUs hold no more than before it came, or the time is up."""
        gone = _wait_until(lambda: _has_ended(pid), timeout_s)
        limit = None if bytes_before is None else bytes_before + RETURN_TOLERANCE_BYTES
        returned = _wait_until(lambda: _hold_at_most(uuids, limit), RETURN_TIMEOUT_S if gone else 0.0)
        return Departure(gone=gone, memory_returned=returned, gpu_bytes=gpus.used_bytes(uuids) if uuids else None)


def _wait_until(holds: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _has_ended(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _hold_at_most(uuids: Sequence[str], limit_bytes: int | None) -> bool:
    now = gpus.used_bytes(uuids) if uuids else None
    return now is None or limit_bytes is None or now <= limit_bytes


_SECONDS_BOUNDARIES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


class ReplicaMetrics:
    """Counters, gauges and a latency histogram, tagged with model, replica and domain."""

    def __init__(self, model: str, replica: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        tags = ("model", "replica")
        self._tags = {"model": model, "replica": replica}
        self._answers = Counter("moe_ray_answers", "Answers computed.", tag_keys=(*tags, "domain"))
        self._tokens = Counter("moe_ray_completion_tokens", "Tokens drawn.", tag_keys=tags)
        self._busy = Counter("moe_ray_busy_seconds", "Seconds inside the engine.", tag_keys=tags)
        self._latency = Histogram(
            "moe_ray_answer_seconds",
            "Seconds from a batch's start to an answer's end.",
            boundaries=_SECONDS_BOUNDARIES,
            tag_keys=(*tags, "domain"),
        )
        self._resident = Gauge("moe_ray_peak_resident_bytes", "Peak resident set of the replica.", tag_keys=tags)
        self._device = Gauge("moe_ray_gpu_used_bytes", "Memory in use on the replica's GPUs.", tag_keys=tags)

    def shard_done(
        self, answers: Sequence[Answer], busy_s: float, peak_resident_bytes: int, gpu_bytes: int | None
    ) -> None:
        """Count a shard's answers."""
        for answer in answers:
            tags = {**self._tags, "domain": answer.domain}
            self._answers.inc(1, tags=tags)
            self._latency.observe(answer.total_s, tags=tags)
        num_tokens = sum(answer.num_completion_tokens for answer in answers)
        if num_tokens:
            self._tokens.inc(num_tokens, tags=self._tags)
        self._busy.inc(max(busy_s, 1e-9), tags=self._tags)
        self._resident.set(peak_resident_bytes, tags=self._tags)
        if gpu_bytes is not None:
            self._device.set(gpu_bytes, tags=self._tags)
