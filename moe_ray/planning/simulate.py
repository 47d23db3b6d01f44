"""Simulate the scheduler with a clock, without hardware."""

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from moe_ray.checkpoints.identity import Checkpoint
from moe_ray.errors import ConfigError
from moe_ray.planning.cells import Shard
from moe_ray.planning.fleet import Demand, Fleet, Slot
from moe_ray.planning.scheduler import Scheduler, Start

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMbB]?)")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one copy of a model does: new tokens a second over its whole batch, and seconds to load."""

    tokens_per_s: float
    load_s: float
    source: str

    def seconds(self, shard: Shard) -> float:
        """Seconds for a shard whose answers all take their limit of new tokens. A likelihood counts as one token."""
        return sum(max(1, cell.max_new_tokens) for cell in shard.cells) / self.tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What one replica did in an earlier run."""

    model: str
    num_tokens: int
    busy_s: float
    load_s: float | None


def measured_speeds(stretches: Iterable[Stretch]) -> dict[str, Speed]:
    """Return the speed of every model that wrote something in an earlier run."""
    by_model: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        by_model.setdefault(stretch.model, []).append(stretch)
    speeds = {}
    for model, own in by_model.items():
        num_tokens, busy_s = sum(one.num_tokens for one in own), sum(one.busy_s for one in own)
        if num_tokens and busy_s > 0:
            loads = [one.load_s for one in own if one.load_s is not None]
            load_s = median(loads) if loads else 0.0
            speeds[model] = Speed(tokens_per_s=num_tokens / busy_s, load_s=load_s, source="measured")
    return speeds


def stated_speeds(texts: Sequence[str], models: Sequence[str]) -> dict[str, Speed]:
    """Read `--speed`: "1500" for every model, "NAME=900" for one; the later and the more special wins."""
    numbers = _by_model(texts, models, option="--speed", example="1500, or NAME=900")
    return {name: Speed(tokens_per_s=number, load_s=0.0, source="stated") for name, number in numbers.items()}


def with_sizes(checkpoints: Mapping[str, Checkpoint], texts: Sequence[str]) -> dict[str, Checkpoint]:
    """Return `checkpoints` with the numbers of parameters that `--size` states: "NAME=3.8B"."""
    sizes = _by_model(texts, list(checkpoints), option="--size", example="NAME=3.8B")
    return {
        name: replace(checkpoint, num_parameters=int(sizes[name]), size_source="--size")
        if name in sizes
        else checkpoint
        for name, checkpoint in checkpoints.items()
    }


def _by_model(texts: Sequence[str], models: Sequence[str], *, option: str, example: str) -> dict[str, float]:
    everywhere: dict[str, float] = {}
    special: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        value = _number(number, option, text, example)
        if not equals:
            everywhere = dict.fromkeys(models, value)
        elif name in models:
            special[name] = value
        else:
            raise ConfigError(f"no model {name!r}", where=option, remedy=f"choose one of {', '.join(models)}")
    return everywhere | special


def _number(text: str, option: str, given: str, example: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if not 0 < value < 1e15:
        raise ConfigError(f"cannot read {given!r}", where=option, remedy=f"write {example}")
    return value


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
