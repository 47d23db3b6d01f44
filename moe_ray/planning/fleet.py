"""The hardware, and the slots that models take on it. Pure bookkeeping, for plans and for real runs."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import CapacityError, ConfigError
from moe_ray.planning.memory import GIB

# Ray counts fractions of a GPU in ten-thousandths; hundredths are fine enough to plan with.
SHARE_STEP = 0.01
_EPSILON = 1e-9
_SIMULATED = re.compile(r"^\s*(\d+)\s*x\s*(\d+(?:\.\d+)?)\s*(GiB|GB)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine. `gpu_bytes` has an entry for each GPU, None where its memory is unknown."""

    id: str
    name: str
    num_cpus: int
    cpu_slots: int
    gpu_bytes: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one copy of a model takes: GPUs (a share of one, or a whole number), or with 0 one CPU slot."""

    gpus: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place that a model holds: the GPUs of a node by index, each by a share, or one of its CPU slots."""

    node: str
    gpu_indices: tuple[int, ...] = ()
    share: float = 0.0
    cpu_slot: int | None = None

    @property
    def places(self) -> list[tuple[str, str]]:
        """The places by name, such as ("node-1", "GPU 0")."""
        if self.cpu_slot is not None:
            return [(self.node, f"CPU slot {self.cpu_slot}")]
        return [(self.node, f"GPU {index}") for index in self.gpu_indices]

    @property
    def num_gpus(self) -> float:
        """GPUs as Ray counts them."""
        return self.share if len(self.gpu_indices) == 1 else float(len(self.gpu_indices))


class Fleet:
    """The free places of all nodes. `take` and `free` are each other's inverse.

    `num_gains` counts the times that places became free: as long as it stays, what could not be taken cannot be.
    """

    def __init__(self, nodes: tuple[Node, ...] = ()) -> None:
        self.nodes: dict[str, Node] = {}
        self.num_gains = 0
        self._free_cpu_slots: dict[str, list[int]] = {}
        self._free_shares: dict[str, list[float]] = {}
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> None:
        """Add a node, with all its places free."""
        self.num_gains += 1
        self.nodes[node.id] = node
        self._free_cpu_slots[node.id] = list(range(node.cpu_slots))
        self._free_shares[node.id] = [1.0] * len(node.gpu_bytes)

    def remove(self, node: str) -> None:
        """Forget a node that is gone. Slots on it are gone with it."""
        for places in (self.nodes, self._free_cpu_slots, self._free_shares):
            places.pop(node, None)

    @property
    def has_gpus(self) -> bool:
        return any(node.gpu_bytes for node in self.nodes.values())

    def can_ever_hold(self, demand: Demand) -> bool:
        """Say whether an empty fleet could hold `demand`."""
        return Fleet(tuple(self.nodes.values())).take(demand) is not None

    def take(self, demand: Demand, avoid: Collection[tuple[str, int]] = ()) -> Slot | None:
        """Take a place for `demand`, or return None when there is none now.

        A share goes to the fullest GPU that still has room, so that whole GPUs stay free for models that need them, and
        never to a GPU (node, index) in `avoid`, where another copy of the model is: a larger batch there does more.
        """
        if demand.gpus == 0:
            return self._take_cpu_slot()
        return self._take_share(demand.gpus, avoid) if demand.gpus < 1 else self._take_whole(round(demand.gpus))

    def free(self, slot: Slot) -> None:
        """Give a place back; a slot on a node that is gone is forgotten."""
        if slot.node not in self.nodes:
            return
        self.num_gains += 1
        if slot.cpu_slot is not None:
            self._free_cpu_slots[slot.node].append(slot.cpu_slot)
        for index in slot.gpu_indices:
            self._free_shares[slot.node][index] = min(1.0, self._free_shares[slot.node][index] + slot.share)

    def _take_cpu_slot(self) -> Slot | None:
        node = max(self.nodes, key=lambda name: len(self._free_cpu_slots[name]), default=None)
        if node is None or not self._free_cpu_slots[node]:
            return None
        index = min(self._free_cpu_slots[node])
        self._free_cpu_slots[node].remove(index)
        return Slot(node=node, cpu_slot=index)

    def _take_share(self, share: float, avoid: Collection[tuple[str, int]]) -> Slot | None:
        places = [
            (free, node, index)
            for node, shares in self._free_shares.items()
            for index, free in enumerate(shares)
            if free >= share - _EPSILON and (node, index) not in avoid
        ]
        if not places:
            return None
        _, node, index = min(places)
        self._free_shares[node][index] -= share
        return Slot(node=node, gpu_indices=(index,), share=share)

    def _take_whole(self, num_gpus: int) -> Slot | None:
        for node, shares in self._free_shares.items():
            empty = [index for index, free in enumerate(shares) if free >= 1 - _EPSILON]
            if len(empty) >= num_gpus:
                for index in empty[:num_gpus]:
                    shares[index] = 0.0
                return Slot(node=node, gpu_indices=tuple(empty[:num_gpus]), share=1.0)
        return None


def demand_of(
    model: str, gpus: float | str, total_bytes: int | None, fleet: Fleet, *, memory_fraction: float
) -> Demand:
    """Return what one copy of `model` takes on `fleet`.

    Args:
        gpus: the model's setting: "auto", a share, a whole number, or 0.
        total_bytes: its estimated memory, None when unknown.
        memory_fraction: the part of a GPU's memory that may be planned with.

    Raises `CapacityError` when GPUs are demanded that are not there, or the model is larger than any node's GPUs.
    """
    if gpus != "auto":
        demand = Demand(gpus=float(gpus), reason="as configured")
    elif not fleet.has_gpus:
        demand = Demand(gpus=0.0, reason="no GPU here")
    else:
        demand = _demand_by_memory(total_bytes, fleet, memory_fraction)
    if not fleet.can_ever_hold(demand):
        raise CapacityError(_shortage(demand, fleet), where=f"models.{model}.gpus", remedy=_REMEDY)
    return demand


_REMEDY = "lower the model's gpus, use quantization or a smaller batch_memory_gib, or name a larger cluster"


def _demand_by_memory(total_bytes: int | None, fleet: Fleet, memory_fraction: float) -> Demand:
    known = [size for node in fleet.nodes.values() for size in node.gpu_bytes if size]
    if total_bytes is None or not known:
        missing = "its size is unknown" if total_bytes is None else "the GPUs' memory is unknown"
        return Demand(gpus=1.0, reason=f"a whole GPU: {missing}")
    usable = min(known) * memory_fraction
    if total_bytes <= usable:
        share = math.ceil(total_bytes / usable / SHARE_STEP - _EPSILON) * SHARE_STEP
        return Demand(gpus=min(1.0, round(share, 2)), reason=f"{total_bytes / GIB:.1f} of {usable / GIB:.1f} GiB")
    return Demand(
        gpus=float(math.ceil(total_bytes / usable)),
        reason=f"{total_bytes / GIB:.1f} GiB over GPUs of {usable / GIB:.1f} GiB",
    )


def _shortage(demand: Demand, fleet: Fleet) -> str:
    if demand.gpus == 0:
        return "it runs on CPU, and there is no CPU slot"
    most = max((len(node.gpu_bytes) for node in fleet.nodes.values()), default=0)
    return f"one copy takes {demand.gpus:g} GPU(s) ({demand.reason}), and the largest node has {most}"


def cpu_slots(runtime: RuntimeConfig, num_cpus: int) -> int:
    """CPU slots of a node with `num_cpus` cores: as configured, else one for each `cpu_threads` cores."""
    if num_cpus == 0:
        return 0
    return max(1, num_cpus // runtime.cpu_threads) if runtime.cpu_slots == "auto" else runtime.cpu_slots


def simulated_fleet(text: str, *, cpu_slots: int = 1) -> Fleet:
    """Return one node as described by text such as "8x80GiB" (count x memory of each GPU).

    Several nodes are joined by a plus: "8x80GiB + 4x24GiB".
    """
    nodes = []
    for number, part in enumerate(text.split("+")):
        match = _SIMULATED.match(part)
        if match is None or int(match[1]) > 100_000:
            raise ConfigError(
                f"cannot read the hardware {text!r}",
                where="--simulate",
                remedy='write COUNTxMEMORY, such as "8x80GiB", or several nodes: "8x80GiB + 4x24GiB"',
            )
        unit = GIB if match[3].lower() == "gib" else 10**9
        gpu_bytes = (int(float(match[2]) * unit),) * int(match[1])
        name = f"simulated-{number}"
        nodes.append(
            Node(id=name, name=name, num_cpus=8 * int(match[1]) or 2, cpu_slots=cpu_slots, gpu_bytes=gpu_bytes)
        )
    return Fleet(tuple(nodes))
