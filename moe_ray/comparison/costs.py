"""What one example costs a system: time on a slot, and the memory that is held for it."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from moe_ray.comparison.columns import FloatArray, ObjectArray, ScoreMatrix
from moe_ray.comparison.records import ExampleCost, MemoryKind, ModelResources
from moe_ray.comparison.resources import busy_seconds, held_memory
from moe_ray.comparison.systems import ExampleSystem, System, picked_by


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellCosts:
    """What the cells of a run cost.

    `busy_s` maps (model, domain) to the seconds [n] of the domain's examples, NaN without an answer; `held` has the
    memory of each model and its kind, None where it was not measured.
    """

    busy_s: Mapping[tuple[str, str], FloatArray]
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
    return CellCosts(busy_s=busy_seconds(answers, resources, example_ids), held=held)


class Spent(NamedTuple):
    """What each of n examples cost a system: `busy_s` is NaN where there is no answer.

    `memory_byte_s` is that time multiplied by the memory of the picked model; NaN throughout where the models' memory
    is of no common kind.
    """

    busy_s: FloatArray
    memory_byte_s: FloatArray
    kind: MemoryKind | None


def spent(cells: CellCosts, domain: str, picks: ObjectArray, router_s: FloatArray | None = None) -> Spent:
    """What the models of `picks` [n] cost on the examples of `domain`, with the router's seconds [n] if there are any.

    The picked model's memory counts as held while the router works too; the router's own memory is left out.
    """
    busy_s, held = np.full(len(picks), np.nan), np.full(len(picks), np.nan)
    models: list[str] = []
    for model, where in picked_by(picks):
        seconds = cells.busy_s.get((model, domain))
        if seconds is None or np.isnan(seconds[where]).all():
            continue
        models.append(model)
        busy_s[where] = seconds[where]
        memory = cells.held.get(model)
        held[where] = memory[0] if memory else np.nan
    if router_s is not None:
        busy_s = busy_s + router_s
    kind = cells.memory_kind(models)
    return Spent(busy_s, busy_s * held if kind else np.full(len(picks), np.nan), kind)


def example_costs(
    matrix: ScoreMatrix, systems: Sequence[System], domains: Sequence[str], cells: CellCosts
) -> list[ExampleCost]:
    """The mean cost of an example, for each domain that a system answers and was measured on."""
    return list(_costs(matrix, systems, domains, cells))


def _costs(
    matrix: ScoreMatrix, systems: Sequence[System], domains: Sequence[str], cells: CellCosts
) -> Iterator[ExampleCost]:
    for domain in domains:
        for system in systems:
            if domain not in system.domains():
                continue
            router_s = system.router_s.get(domain) if isinstance(system, ExampleSystem) else None
            found = spent(cells, domain, system.picks(domain, matrix.example_ids[domain]), router_s)
            if not np.isnan(found.busy_s).all():
                yield _cost(system, domain, found, router_s, cells)


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
