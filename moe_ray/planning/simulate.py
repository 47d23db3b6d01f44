"""What the scheduler will do, played through with a clock and no hardware."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_ray.planning.fleet import Demand, Fleet, Slot
from moe_ray.planning.scheduler import Scheduler, Start
from moe_ray.planning.shards import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A model's stay on a slot: `wave` counts the models that were there before (1 for the first)."""

    wave: int
    slot: Slot
    model: str
    num_shards: int
    num_cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """The stays in the order of their starts; a swap is a stay on places that another model has left."""

    stays: tuple[Stay, ...]

    @property
    def num_waves(self) -> int:
        return max((stay.wave for stay in self.stays), default=0)

    @property
    def num_swaps(self) -> int:
        return sum(stay.wave > 1 for stay in self.stays)


def simulate(
    fleet: Fleet, demands: Mapping[str, Demand], shards: Sequence[Shard], costs: Mapping[str, float]
) -> Simulation:
    """Play the scheduler through, with time in proportion to cells x cost, and say who stays where."""
    scheduler = Scheduler(fleet, demands, shards, costs=costs)
    clock: list[tuple[float, int, str, str]] = []
    starts: dict[str, tuple[int, Start]] = {}
    work: dict[str, list[Shard]] = {}
    left: dict[tuple[str, str], int] = {}
    now, tick = 0.0, 0

    def feed(replica: str) -> None:
        nonlocal tick
        shard = scheduler.next_shard(replica)
        if shard is None:
            scheduler.retired(replica)
            wave, start = starts[replica]
            left.update(dict.fromkeys(start.slot.places, wave))
            return
        tick += 1
        work[replica].append(shard)
        heapq.heappush(clock, (now + len(shard.cells) * costs.get(shard.model, 1.0), tick, replica, shard.id))

    while True:
        for start in scheduler.starts():
            starts[start.replica] = (1 + max(left.get(place, 0) for place in start.slot.places), start)
            work[start.replica] = []
            feed(start.replica)
        if not clock:
            break
        now, _, replica, shard_id = heapq.heappop(clock)
        scheduler.completed(replica, shard_id)
        feed(replica)
    return Simulation(
        stays=tuple(_stay(wave, start, work[name]) for name, (wave, start) in starts.items() if work[name])
    )


def _stay(wave: int, start: Start, shards: Sequence[Shard]) -> Stay:
    num_cells = sum(len(shard.cells) for shard in shards)
    return Stay(wave=wave, slot=start.slot, model=start.model, num_shards=len(shards), num_cells=num_cells)
