"""The cost of one example for a system: compute time and memory-seconds."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.comparison.columns import ObjectArray, ScoreMatrix
from moe_ray.comparison.records import CostRatio, ExampleCost, MemoryKind, ModelResources
from moe_ray.comparison.resources import batch_codes, busy_seconds, held_memory
from moe_ray.comparison.systems import BASELINE, ExampleSystem, System, picked_by
from moe_ray.proportions import CONFIDENCE

# Two replicas of equal models on one machine took up to 1.23 times each other's time. One run does not show that
# spread, so every interval of a cost ratio is widened by a little more than it on either side.
RESTART_FACTOR = 1.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellCosts:
    """What the cells of a run cost.

    `busy_s` maps (model, domain) to the seconds [n] of the domain's examples, NaN without an answer, and `batches` to
    the batches [n] that they were answered in; `held` has the memory of each model and its kind, None where it was not
    measured.
    """

    busy_s: Mapping[tuple[str, str], FloatArray]
    batches: Mapping[tuple[str, str], IntArray]
    held: Mapping[str, tuple[int, MemoryKind] | None]

    def memory_kind(self, models: Collection[str]) -> MemoryKind | None:
        """The kind in which the memory of all of `models` was measured; None where they have none in common."""
        found = {held[1] if (held := self.held.get(model)) else None for model in models}
        return found.pop() if len(found) == 1 else None

    def resident_bytes(self, models: Collection[str]) -> int | None:
        """The memory of `models`, all kept loaded; None where one is not measured, or not as the others are."""
        if self.memory_kind(models) is None:
            return None
        return sum(held[0] for model in models if (held := self.held[model]))


def cell_costs(
    answers: pa.Table, resources: Mapping[str, ModelResources], example_ids: Mapping[str, Sequence[str]]
) -> CellCosts:
    """The costs of the cells of `answers`, a table of `TIMING_COLUMNS`."""
    held = {model: held_memory(found.peak_memory) for model, found in resources.items()}
    busy_s = busy_seconds(answers, resources, example_ids)
    return CellCosts(busy_s=busy_s, batches=batch_codes(answers, example_ids), held=held)


class Spent(NamedTuple):
    """What each of n examples cost a system: `busy_s` is NaN where there is no answer.

    `memory_byte_s` is that time multiplied by the memory of the picked model; NaN throughout where the models' memory
    is of no common kind. Examples of one number in `batches` [n] were answered in one batch.
    """

    busy_s: FloatArray
    memory_byte_s: FloatArray
    kind: MemoryKind | None
    batches: IntArray


def spent(cells: CellCosts, domain: str, picks: ObjectArray, router_s: FloatArray | None = None) -> Spent:
    """What the models of `picks` [n] cost on the examples of `domain`, with the router's seconds [n] if there are any.

    The picked model's memory counts as held while the router works too; the router's own memory is left out.
    """
    busy_s, held = np.full(len(picks), np.nan), np.full(len(picks), np.nan)
    batches = np.full(len(picks), -1, dtype=np.intp)
    models: list[str] = []
    for model, where in picked_by(picks):
        seconds = cells.busy_s.get((model, domain))
        if seconds is None or np.isnan(seconds[where]).all():
            continue
        models.append(model)
        busy_s[where] = seconds[where]
        batches[where] = cells.batches[model, domain][where] + batches.max() + 1
        memory = cells.held.get(model)
        held[where] = memory[0] if memory else np.nan
    if router_s is not None:
        busy_s = busy_s + router_s
    kind = cells.memory_kind(models)
    return Spent(busy_s, busy_s * held if kind else np.full(len(picks), np.nan), kind, batches)


def example_costs(
    matrix: ScoreMatrix, systems: Sequence[System], domains: Sequence[str], cells: CellCosts
) -> list[ExampleCost]:
    """The mean cost of an example, for each domain that a system answers and was measured on."""
    return list(_costs(matrix, systems, domains, cells))


def _costs(
    matrix: ScoreMatrix, systems: Sequence[System], domains: Sequence[str], cells: CellCosts
) -> Iterator[ExampleCost]:
    for domain in domains:
        answering = [system for system in systems if domain in system.domains()]
        router_s = {one.name: _router_seconds(one, domain) for one in answering}
        found = {
            one.name: spent(cells, domain, one.picks(domain, matrix.example_ids[domain]), router_s[one.name])
            for one in answering
        }
        for system in answering:
            if not np.isnan(found[system.name].busy_s).all():
                cost = _cost(system, domain, found[system.name], router_s[system.name], cells)
                yield cost.model_copy(update=_ratios(system, found))


def _router_seconds(system: System, domain: str) -> FloatArray | None:
    return system.router_s.get(domain) if isinstance(system, ExampleSystem) else None


def _ratios(system: System, found: Mapping[str, Spent]) -> dict[str, CostRatio | None]:
    mine, other = found[system.name], found.get(BASELINE)
    if other is None or other is mine:
        return {}
    is_alike = mine.kind is not None and mine.kind == other.kind
    return {
        "time_ratio": cost_ratio(mine.busy_s, mine.batches, other.busy_s, other.batches),
        "memory_ratio": cost_ratio(mine.memory_byte_s, mine.batches, other.memory_byte_s, other.batches)
        if is_alike
        else None,
    }


def cost_ratio(mine: FloatArray, my_batches: IntArray, other: FloatArray, other_batches: IntArray) -> CostRatio | None:
    """The mean of `mine` [n] over that of `other` [m], NaN left out, with an interval from the spread of batches.

    On the logarithm, by Student's quantile, the two sides taken for independent, and widened by `RESTART_FACTOR`.
    """
    from scipy.special import stdtrit

    sides = [_mean_and_error(values, batches) for values, batches in ((mine, my_batches), (other, other_batches))]
    if any(side is None or side.mean <= 0 for side in sides):
        return None
    (first, second) = (side for side in sides if side is not None)
    value, num = first.mean / second.mean, min(first.num_batches, second.num_batches)
    if num < 2:
        return CostRatio(value=value, low=None, high=None, num_batches=num)
    error = math.hypot(first.error / first.mean, second.error / second.mean)
    width = math.exp(float(stdtrit(num - 1, (1 + CONFIDENCE) / 2)) * error) * RESTART_FACTOR
    return CostRatio(value=value, low=value / width, high=value * width, num_batches=num)


class _Side(NamedTuple):
    mean: float
    error: float
    num_batches: int


def _mean_and_error(values: FloatArray, batches: IntArray) -> _Side | None:
    """The mean, and its standard error with whole batches as units; None without a value."""
    known = ~np.isnan(values)
    if not known.any():
        return None
    mean, num = _mean(values[known]), int(known.sum())
    _, codes = np.unique(batches[known], return_inverse=True)
    sums = np.bincount(codes.reshape(-1), weights=values[known] - mean)
    num_batches = len(sums)
    spread = math.fsum((sums**2).tolist()) * num_batches / max(1, num_batches - 1)
    return _Side(mean, math.sqrt(spread) / num, num_batches)


def _cost(system: System, domain: str, found: Spent, router_s: FloatArray | None, cells: CellCosts) -> ExampleCost:
    """Means over the examples that were answered, of which there is at least one."""
    answered = ~np.isnan(found.busy_s)
    return ExampleCost(
        system=system.name,
        domain=domain,
        n=int(answered.sum()),
        busy_s=_mean(found.busy_s[answered]),
        memory_byte_s=_mean(found.memory_byte_s[answered]) if found.kind else None,
        memory_kind=found.kind,
        router_s=None if router_s is None else _mean(router_s[answered]),
        resident_bytes=cells.resident_bytes(system.members),
    )


def _mean(values: FloatArray) -> float:
    """Correctly rounded, so that no order of the examples shows in it."""
    return math.fsum(values.tolist()) / len(values)
