"""What the scheduler will do, played through with a clock and no hardware."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_ray.planning.fleet import Demand, Fleet, Slot
from moe_ray.planning.scheduler import Scheduler, Start
from moe_ray.planning.shards import Shard
from moe_ray.planning.speeds import Speed


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
    """The stays in the order of their starts; a swap is a stay on places that another model has left.

    `duration_s` is None where the speed of a model with work is unknown.
    """

    stays: tuple[Stay, ...]
    duration_s: float | None = None

    @property
    def num_waves(self) -> int:
        return max((stay.wave for stay in self.stays), default=0)

    @property
    def num_swaps(self) -> int:
        return sum(stay.wave > 1 for stay in self.stays)


def simulate(
    fleet: Fleet,
    demands: Mapping[str, Demand],
    shards: Sequence[Shard],
    costs: Mapping[str, float],
    speeds: Mapping[str, Speed] | None = None,
) -> Simulation:
    """Play the scheduler through, and say which model stays where, and for how long if all `speeds` are known.

    Without them time is in proportion to cells x cost.
    """
    known = speeds if speeds and demands.keys() <= speeds.keys() else None
    scheduler = Scheduler(fleet, demands, shards, costs=costs)
    clock: list[tuple[float, int, str, str]] = []
    starts: dict[str, tuple[int, Start]] = {}
    work: dict[str, list[Shard]] = {}
    left: dict[tuple[str, str], int] = {}
    now, tick = 0.0, 0

    def feed(replica: str, ready_at: float) -> None:
        nonlocal tick
        shard = scheduler.next_shard(replica)
        if shard is None:
            scheduler.retired(replica)
            wave, start = starts[replica]
            left.update(dict.fromkeys(start.slot.places, wave))
            return
        tick += 1
        work[replica].append(shard)
        seconds = known[shard.model].seconds(shard) if known else len(shard.cells) * costs.get(shard.model, 1.0)
        heapq.heappush(clock, (ready_at + seconds, tick, replica, shard.id))

    while True:
        for start in scheduler.starts():
            starts[start.replica] = (1 + max(left.get(place, 0) for place in start.slot.places), start)
            work[start.replica] = []
            feed(start.replica, now + (known[start.model].load_s if known else 0.0))
        if not clock:
            break
        now, _, replica, shard_id = heapq.heappop(clock)
        scheduler.completed(replica, shard_id)
        feed(replica, now)
    stays = tuple(_stay(wave, start, work[name]) for name, (wave, start) in starts.items() if work[name])
    return Simulation(stays=stays, duration_s=now if known else None)


def _stay(wave: int, start: Start, shards: Sequence[Shard]) -> Stay:
    num_cells = sum(len(shard.cells) for shard in shards)
    return Stay(wave=wave, slot=start.slot, model=start.model, num_shards=len(shards), num_cells=num_cells)
