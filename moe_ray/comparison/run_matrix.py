"""A run as systems see it: the matrix of its scores, and who is who in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moe_ray.comparison.columns import Column, ColumnKey, ScoreMatrix
from moe_ray.comparison.conclusions import MAX_MISSING, NOT_ANSWERED, same_reference
from moe_ray.comparison.failures import uncounted_failures
from moe_ray.comparison.systems import was_asked_all
from moe_ray.scoring.score import Metric


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunMatrix:
    """The scores of a run with its roles. `headlines` has the metric that headlines speak of, for each scored domain.

    `scores` have their failures counted (`count_failures`).

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

    def reason_against(self, model: str) -> str | None:
        """Why the headline scores of `model` cannot be ranked among the others'; None where they can."""
        for domain, metric in self.headlines.items():
            column, num = self.headline(model, domain), len(self.scores.example_ids[domain])
            if column is None:
                return f"it has no {metric.name} on {domain}"
            num_failed = uncounted_failures(self.scores, column, domain, metric)
            if num_failed:
                return f"it failed on {num_failed} of {num} examples of {domain}, which {metric.name} cannot count"
            num_missing = self._num_missing(column, domain)
            if num_missing > MAX_MISSING * num:
                return f"{num_missing} of {num} examples of {domain} have no score"
        return None

    def _num_missing(self, column: Column, domain: str) -> int:
        """Examples without a score in `column` that it did not answer, or that another model is scored on."""
        others = [found for model in self.models if (found := self.headline(model, domain)) is not None]
        can_be_scored = np.any([other.scored for other in others], axis=0)
        return int((~column.scored & (can_be_scored | np.isin(column.reasons, NOT_ANSWERED))).sum())

    def share_references(self, domain: str) -> bool:
        """True where all models' headline scores on `domain` were measured against the same references."""
        columns = [column for model in self.models if (column := self.headline(model, domain)) is not None]
        return all(same_reference(columns[0], other).all() for other in columns[1:])

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
