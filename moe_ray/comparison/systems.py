"""Systems: policies that pick, per example, whose answer counts.

A system is a name and a pick. Models alone, the baseline and the experts pick by domain; a router, a cascade or an
oracle picks by example. All are ways of reading one matrix of scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from moe_ray.comparison.columns import COLUMN_PARTS, Column, ColumnKey, ScoreMatrix, empty_column

SystemKind = Literal["model", "policy"]

BASELINE = "baseline"
EXPERTS = "experts"
ROUTED = "routed"
CASCADE = "cascade"
ORACLE = "oracle"
RANDOM = "random"
BEST_SINGLE = "best_single"
NO_PICK = "the system picks no model here"


class System(Protocol):
    """A policy over examples. `kind` is "model" for one model alone."""

    @property
    def name(self) -> str: ...

    @property
    def definition(self) -> str: ...

    @property
    def kind(self) -> SystemKind: ...

    def domains(self) -> frozenset[str]:
        """Domains that this system answers."""
        ...

    def picks(self, domain: str, example_ids: Sequence[str]) -> Sequence[str | None]:
        """The model whose answer counts, for each of `example_ids`; None where there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSystem:
    """One model for each domain: a model alone, the baseline, the experts."""

    name: str
    definition: str
    kind: SystemKind
    models: Mapping[str, str]

    def domains(self) -> frozenset[str]:
        return frozenset(self.models)

    def picks(self, domain: str, example_ids: Sequence[str]) -> Sequence[str | None]:
        return [self.models.get(domain)] * len(example_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSystem:
    """One model for each example: `models` maps (domain, example id) to it. Routers, cascades and oracles are these."""

    name: str
    definition: str
    models: Mapping[tuple[str, str], str]
    kind: SystemKind = "policy"

    def domains(self) -> frozenset[str]:
        return frozenset(domain for domain, _ in self.models)

    def picks(self, domain: str, example_ids: Sequence[str]) -> Sequence[str | None]:
        return [self.models.get((domain, example_id)) for example_id in example_ids]


def standard_systems(
    matrix: ScoreMatrix,
    *,
    domains: Sequence[str],
    models: Sequence[str],
    baseline: str | None,
    experts: Mapping[str, str],
) -> list[System]:
    """The baseline, the experts, and each model alone on the domains that it has scores for.

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
        answered = {domain: model for domain in domains if model in matrix.models_of(domain)}
        if answered:
            systems.append(_alone(model, answered))
    return systems


def _policy(name: str, definition: str, models: Mapping[str, str]) -> System:
    return DomainSystem(name=name, definition=definition, kind="policy", models=models)


def _alone(model: str, models: Mapping[str, str]) -> System:
    name = f"model:{model}" if model in (BASELINE, EXPERTS) else model
    return DomainSystem(name=name, definition=f"{model} alone", kind="model", models=models)


def system_column(matrix: ScoreMatrix, system: System, domain: str, metric: str) -> Column:
    """The scores that count when `system` answers `domain`: a column over the domain's examples.

    Where the picked model has no score, the column has none, with the reason.
    """
    ids = matrix.example_ids[domain]
    picks = np.array(system.picks(domain, ids), dtype=object)
    result = empty_column(len(ids))
    result.reasons[picks == None] = NO_PICK  # noqa: E711  (elementwise)
    for model in sorted(set(picks.tolist()) - {None}):
        column = matrix.columns.get(ColumnKey(model, domain, metric))
        if column is not None:
            _copy(column, result, picks == model)
    return result


def _copy(source: Column, target: Column, where: np.ndarray) -> None:
    for name in COLUMN_PARTS:
        getattr(target, name)[where] = getattr(source, name)[where]
