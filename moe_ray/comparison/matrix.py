"""The matrix of models and examples, failures in it, and what too many of them rule out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moe_ray.arrays import BoolArray
from moe_ray.comparison.columns import NO_SCORE, Column, ColumnKey, ScoreMatrix
from moe_ray.comparison.systems import NO_PICK, was_asked_all
from moe_ray.scoring.samples import NO_ANSWER
from moe_ray.scoring.score import Metric


def countable_metrics(matrices: Iterable[ScoreMatrix], metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """`metrics`, each with the worst value that its failures may be counted as in all of `matrices`.

    A declared worst value that an observed score falls below is not the worst one, and a lower-is-better metric that
    declares none inherits 0, which is its best: both become None.
    """
    columns: dict[str, list[Column]] = {name: [] for name in metrics}
    for matrix in matrices:
        for key, column in matrix.columns.items():
            columns[key.metric].append(column)
    return {name: replace(metric, worst=_worst(metric, columns[name])) for name, metric in metrics.items()}


def _worst(metric: Metric, columns: Iterable[Column]) -> float | None:
    worst, direction = metric.worst, 1 if metric.higher_is_better else -1
    if worst is None or (worst == 0 and direction < 0):
        return None
    is_exceeded = any((column.values[column.scored] * direction < worst * direction).any() for column in columns)
    return None if is_exceeded else worst


def count_failures(matrix: ScoreMatrix, metrics: Mapping[str, Metric]) -> ScoreMatrix:
    """`matrix` with each failure's value set to its metric's worst, where that is not None.

    A failed answer has no label, so it counts as a wrong one. Its gold label and its weight are taken from another
    model's score on the example where its own row has none.
    """
    columns = dict(matrix.columns)
    for key, column in matrix.columns.items():
        if column.failed.any():
            columns[key] = _counted(column, _columns_of(matrix, key), metrics[key.metric].worst)
    return ScoreMatrix(example_ids=matrix.example_ids, columns=columns)


def _columns_of(matrix: ScoreMatrix, key: ColumnKey) -> list[Column]:
    return [column for other, column in matrix.columns.items() if other[1:] == key[1:]]


def _counted(column: Column, others: Iterable[Column], worst: float | None) -> Column:
    golds, weights, labels = column.golds.copy(), column.weights.copy(), column.labels.copy()
    for other in others:
        is_lacking = column.failed & (golds == None)  # noqa: E711  (elementwise)
        golds[is_lacking] = other.golds[is_lacking]
        is_scored = column.failed & other.scored & ~other.failed
        weights[is_scored] = other.weights[is_scored]
    labels[column.failed] = None
    values = column.values if worst is None else np.where(column.failed, worst, column.values)
    return replace(column, values=values, weights=weights, labels=labels, golds=golds)


def answered_only(column: Column) -> Column:
    """`column` with its failures left out, however they were counted."""
    return replace(column, values=np.where(column.failed, np.nan, column.values))


def common_failures(matrix: ScoreMatrix, domain: str, metric: str) -> BoolArray:
    """True [n] where every model that was asked the example failed on it."""
    columns = _columns_of(matrix, ColumnKey("", domain, metric))
    has_passed = np.any([(column.reasons != NO_SCORE) & ~column.failed for column in columns], axis=0)
    found: BoolArray = np.any([column.failed for column in columns], axis=0) & ~has_passed
    return found


def uncounted_failures(matrix: ScoreMatrix, column: Column, domain: str, metric: Metric) -> int:
    """How many failures of `column` its metric cannot count, those that all models share left aside."""
    if metric.worst is not None or not column.failed.any():
        return 0
    return int((column.failed & ~common_failures(matrix, domain, metric.name)).sum())


# A verdict needs scores of both systems on all but this share of the examples. What is missing was not drawn at
# random, and 5 % of the examples can move a mean by as much as most differences are worth.
MAX_MISSING = 0.05
NOT_ANSWERED = (NO_ANSWER, NO_SCORE, NO_PICK)


def same_reference(a: Column, b: Column) -> BoolArray:
    """True [n] unless the two scores were measured against different references, or weigh differently."""
    is_known = (a.golds != None) & (b.golds != None)  # noqa: E711  (elementwise)
    both = a.scored & b.scored
    differs = (is_known & (a.golds != b.golds)) | (a.weights != b.weights)
    same: BoolArray = ~(both & differs.astype(np.bool_))
    return same


def no_conclusion(a: Column, b: Column, metric: Metric, name_a: str, name_b: str) -> str | None:
    """Why the scores of systems a and b on the same examples support no verdict; None where they do."""
    num = len(a.values)
    if metric.worst is None and (a.failed != b.failed).any():
        failed_a, failed_b = int(a.failed.sum()), int(b.failed.sum())
        return (
            f"{metric.name} has no worst value that a failure could count as, and {name_a} failed on {failed_a} of "
            f"{num} examples, {name_b} on {failed_b}"
        )
    num_other = int((~same_reference(a, b)).sum())
    if num_other > MAX_MISSING * num:
        return f"{name_a} and {name_b} were measured against different references on {num_other} of {num} examples"
    num_missing = int(missing(a, b).sum())
    if num_missing > MAX_MISSING * num:
        return (
            f"{num_missing} of {num} examples have no score of {name_a} or {name_b}; at most {MAX_MISSING:.0%} may "
            "be missing"
        )
    return None


def missing(a: Column, b: Column) -> BoolArray:
    """True [n] where a score of either is missing.

    An example that neither was scored on though both were answered is at fault itself, and so are examples on which
    both failed where failures cannot be counted: what remains does not favour a system.
    """
    unscored = ~a.scored | ~b.scored
    neither = ~a.scored & ~b.scored
    is_at_fault = neither & ~np.isin(a.reasons, NOT_ANSWERED) & ~np.isin(b.reasons, NOT_ANSWERED)
    found: BoolArray = unscored & ~is_at_fault
    return found


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
