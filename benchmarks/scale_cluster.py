"""A Ray cluster of several nodes on this machine that pretends to have many slots, loses some and regains them."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

OBJECT_STORE_BYTES = 100 << 20
IDLE_WORKERS_TIMEOUT_S = 120.0


@dataclass
class Nodes:
    """A head without slots, and nodes of `slots_per_node` slots each. `changes` are (Unix time, slots more or less)."""

    slots_per_node: int
    folder: Path
    changes: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "temp_dir": str(self.folder),
                "object_store_memory": OBJECT_STORE_BYTES,
            },
        )
        self._nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        """Start a node; its slots count from when Ray knows it."""
        node = self._cluster.add_node(num_cpus=self.slots_per_node, object_store_memory=OBJECT_STORE_BYTES)
        self._nodes.append(node)
        self.changes.append((time.time(), self.slots_per_node))

    def lose(self) -> None:
        """End the oldest node as a power loss would: its raylet and all processes below it, at once."""
        node = self._nodes.pop(0)
        raylet = _raylet(node)
        self.changes.append((time.time(), -self.slots_per_node))
        for process in [raylet, *raylet.children(recursive=True)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._cluster.remove_node(node, allow_graceful=False)

    def wait_for_idle_workers(self) -> None:
        """Wait until every slot has an idle worker's process; raises `TimeoutError` when they do not come."""
        deadline = time.monotonic() + IDLE_WORKERS_TIMEOUT_S
        while sum(map(_num_idle_workers, self._nodes)) < self.slots_per_node * len(self._nodes):
            if time.monotonic() > deadline:
                raise TimeoutError("the nodes started too few idle workers")
            time.sleep(1.0)

    def shut_down(self) -> None:
        self._cluster.shutdown()


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _num_idle_workers(node: Any) -> int:
    """Workers name themselves once they have joined their raylet."""
    return sum("ray::IDLE" in " ".join(child.cmdline()) for child in _raylet(node).children())


def available_slot_seconds(changes: list[tuple[float, int]], start: float, end: float) -> float:
    """Return the integral of the slots that were there, from `start` to `end` (Unix times)."""
    return sum(slots * max(0.0, end - max(at, start)) for at, slots in changes)


def moment_of(changes: list[tuple[float, int]], start: float, slot_seconds: float) -> float:
    """Return the earliest moment by which the slots that are there from `start` on give so many slot seconds.

    After the last change they stay as they are. Raises `ValueError` when there are none left then.
    """
    now, slots, left = start, 0, slot_seconds
    for at, change in sorted(changes):
        if at > now:
            if slots * (at - now) >= left:
                break
            left -= slots * (at - now)
            now = at
        slots += change
    if slots <= 0:
        raise ValueError("no slots are left")
    return now + left / slots
