"""Failed answers in comparisons: a failure counts as the metric's worst value, so that failing never helps.

A score without a value is either a failure (the model itself is at fault: an error, a prompt that it refuses) or
unscored (nothing was computed yet, or the grader or the example is at fault). Unscored examples are left out and
counted. Where a metric has no worst value, its failures cannot be counted: what it says of the remaining examples
supports no conclusion.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from moe_ray.comparison.columns import NO_SCORE, BoolArray, Column, ColumnKey, ScoreMatrix
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
