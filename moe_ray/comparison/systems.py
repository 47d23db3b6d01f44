"""Systems: policies that pick, per example, whose answer counts.

A system is a name and a pick. Models alone, the baseline and the experts pick by domain; a router, a cascade or an
oracle picks by example. All are ways of reading one matrix of scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from moe_ray.arrays import BoolArray, FloatArray
from moe_ray.comparison.columns import COLUMN_PARTS, NO_SCORE, Column, ColumnKey, ObjectArray, ScoreMatrix, empty_column

SystemKind = Literal["model", "policy"]

BASELINE = "baseline"
EXPERTS = "experts"
ROUTED = "routed"
CASCADE = "cascade"
ORACLE = "oracle"
RANDOM = "random"
BEST_SINGLE = "best_single"
# What a router is measured by. The oracle and the best single model are chosen by the very scores that they would be
# tested on, so a p-value of theirs says nothing, and would move the adjustment of the others'.
REFERENCES = frozenset({ORACLE, RANDOM, BEST_SINGLE})
POLICIES = frozenset({BASELINE, EXPERTS, ROUTED, CASCADE}) | REFERENCES
NO_PICK = "the system picks no model here"


class System(Protocol):
    """A policy over examples. `kind` is "model" for one model alone."""

    @property
    def name(self) -> str: ...

    @property
    def definition(self) -> str: ...

    @property
    def kind(self) -> SystemKind: ...

    @property
    def members(self) -> frozenset[str]:
        """Models that this system may pick, on any domain."""
        ...

    def domains(self) -> frozenset[str]:
        """Domains that this system answers."""
        ...

    def picks(self, domain: str, example_ids: Sequence[str]) -> ObjectArray:
        """The model whose answer counts, for each of `example_ids` [n]; None where there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSystem:
    """One model for each domain: a model alone, the baseline, the experts."""

    name: str
    definition: str
    kind: SystemKind
    models: Mapping[str, str]

    @property
    def members(self) -> frozenset[str]:
        return frozenset(self.models.values())

    def domains(self) -> frozenset[str]:
        return frozenset(self.models)

    def picks(self, domain: str, example_ids: Sequence[str]) -> ObjectArray:
        return np.full(len(example_ids), self.models.get(domain), dtype=object)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExampleSystem:
    """One model for each example: routers, cascades and oracles are these.

    `chosen` holds, by domain, the models of that domain's `example_ids` [n], None where none is picked. Behind a
    router, `router_s` has the seconds [n] that it took for each of them, NaN where it was not asked. Where
    `sent_to_baseline` [n] is True, a threshold turned the example from the router's choice to the baseline.
    """

    name: str
    definition: str
    members: frozenset[str]
    example_ids: Mapping[str, Sequence[str]]
    chosen: Mapping[str, ObjectArray]
    router_s: Mapping[str, FloatArray] = field(default_factory=dict)
    sent_to_baseline: Mapping[str, BoolArray] = field(default_factory=dict)
    kind: SystemKind = "policy"

    def domains(self) -> frozenset[str]:
        return frozenset(self.chosen)

    def picks(self, domain: str, example_ids: Sequence[str]) -> ObjectArray:
        if domain not in self.chosen:
            return np.full(len(example_ids), None, dtype=object)
        if self.example_ids[domain] == example_ids:
            return self.chosen[domain]
        known = dict(zip(self.example_ids[domain], self.chosen[domain].tolist(), strict=True))
        return np.array([known.get(example_id) for example_id in example_ids], dtype=object)


def standard_systems(
    matrix: ScoreMatrix,
    *,
    domains: Sequence[str],
    models: Sequence[str],
    baseline: str | None,
    experts: Mapping[str, str],
) -> list[System]:
    """The baseline, the experts, and each model alone on the domains of which it was asked every example.

    A model that bears the name of a policy is listed as `model:NAME`.
    """
    systems: list[System] = []
    if baseline is not None:
        definition = f"{baseline} answers everything"
        systems.append(_policy(BASELINE, definition, dict.fromkeys(domains, baseline)))
    if experts:
        definition = "each domain is answered by its expert"
        systems.append(_policy(EXPERTS, definition, {name: experts[name] for name in domains if name in experts}))
    for model in models:
        answered = {domain: model for domain in domains if was_asked_all(matrix, model, domain)}
        if answered:
            systems.append(_alone(model, answered))
    return systems


def _policy(name: str, definition: str, models: Mapping[str, str]) -> System:
    return DomainSystem(name=name, definition=definition, kind="policy", models=models)


def _alone(model: str, models: Mapping[str, str]) -> System:
    name = f"model:{model}" if model in POLICIES else model
    return DomainSystem(name=name, definition=f"{model} alone", kind="model", models=models)


def was_asked_all(matrix: ScoreMatrix, model: str, domain: str) -> bool:
    """True where `model` has an entry, scored or not, for each example of `domain`.

    A model that answered only what a router sent to it by mistake is not a system of that domain.
    """
    columns = (column for key, column in matrix.columns.items() if key[:2] == (model, domain))
    return any(not (column.reasons == NO_SCORE).any() for column in columns)


def system_column(matrix: ScoreMatrix, system: System, domain: str, metric: str) -> Column:
    """The scores that count when `system` answers `domain`: a column over the domain's examples.

    Where the picked model has no score, the column has none, with the reason.
    """
    ids = matrix.example_ids[domain]
    picks = system.picks(domain, ids)
    result = empty_column(len(ids))
    result.reasons[picks == None] = NO_PICK  # noqa: E711  (elementwise)
    for model, where in picked_by(picks):
        column = matrix.columns.get(ColumnKey(model, domain, metric))
        if column is not None:
            _copy(column, result, where)
    return result


def picked_by(picks: ObjectArray) -> Iterator[tuple[str, BoolArray]]:
    """Each model of `picks` [n], sorted, and True [n] where it is picked."""
    for model in sorted(set(picks.tolist()) - {None}):
        yield model, picks == model


def _copy(source: Column, target: Column, where: BoolArray) -> None:
    for name in COLUMN_PARTS:
        getattr(target, name)[where] = getattr(source, name)[where]
