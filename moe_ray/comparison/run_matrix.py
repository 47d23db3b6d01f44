"""A run as systems see it: the matrix of its scores, and who is who in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_ray.comparison.columns import Column, ColumnKey, ScoreMatrix
from moe_ray.comparison.systems import was_asked_all
from moe_ray.scoring.score import Metric


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunMatrix:
    """The scores of a run with its roles. `headlines` has the metric that headlines speak of, for each scored domain.

    `models` are in the order of the experiment.
    """

    scores: ScoreMatrix
    headlines: Mapping[str, Metric]
    models: Sequence[str]
    baseline: str | None
    experts: Mapping[str, str]

    def expert_of(self, domain: str) -> str | None:
        """Who answers `domain` behind a router: its expert, else the baseline."""
        return self.experts.get(domain, self.baseline)

    def by_preference(self, domain: str) -> list[str]:
        """The models in the order in which ties are decided: the domain's expert, the baseline, the others."""
        first = [model for model in (self.expert_of(domain), self.baseline) if model is not None]
        return list(dict.fromkeys([*first, *self.models]))

    def headline(self, model: str, domain: str) -> Column | None:
        """The headline scores of `model` on `domain`; None where it has none at all."""
        return self.scores.columns.get(ColumnKey(model, domain, self.headlines[domain].name))

    def was_asked_everything(self, model: str) -> bool:
        """True where `model` was asked every example of every domain."""
        return all(was_asked_all(self.scores, model, domain) for domain in self.headlines)

    @property
    def is_full(self) -> bool:
        """True where all models were asked everything, and that is more than what baseline and experts are for."""
        everything = {(model, domain) for model in self.models for domain in self.headlines}
        assigned = {(model, domain) for domain in self.headlines for model in (self.baseline, self.expert_of(domain))}
        return bool(everything - assigned) and all(map(self.was_asked_everything, self.models))

    @property
    def is_whole(self) -> bool:
        """True where every model has a headline score on every example."""
        columns = [self.headline(model, domain) for model in self.models for domain in self.headlines]
        return all(column is not None and bool(column.scored.all()) for column in columns)


def sign(metric: Metric) -> int:
    """1 where higher is better, -1 where lower is."""
    return 1 if metric.higher_is_better else -1
