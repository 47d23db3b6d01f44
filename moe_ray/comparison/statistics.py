"""Aggregates of per-example scores, with their 95 % intervals. No scores give None, never 0."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moe_ray.comparison.columns import Column, FloatArray
from moe_ray.comparison.intervals import (
    NO_INTERVAL,
    Interval,
    corrected_interval,
    effective_number,
    percentile_interval,
    wilson_interval,
)
from moe_ray.comparison.posterior import macro_f1_interval
from moe_ray.comparison.resampling import resampled_sums
from moe_ray.comparison.sums import count_rows, exact_sums, value_of_sums, values_of_sums
from moe_ray.scoring.score import Metric


class Aggregate(NamedTuple):
    """A metric's value over the scored examples of a column."""

    value: float | None
    interval: Interval
    num_scored: int
    num_unscored: int


def aggregate(column: Column, metric: Metric, labels: Sequence[str] = ()) -> Aggregate:
    """Aggregate the scored examples of `column` as `metric` says.

    `labels` are the domain's gold labels, for macro-F1. A predicted label outside of them counts against its gold label
    alone.
    """
    scored = column.scored
    rows = count_rows(column, metric, labels)[scored]
    sums = exact_sums(rows)
    value = value_of_sums(sums, metric)
    interval = NO_INTERVAL if value is None else _interval(column.values[scored], rows, sums, value, metric)
    num_scored = int(scored.sum())
    return Aggregate(value, interval, num_scored, len(scored) - num_scored)


def _interval(values: FloatArray, rows: FloatArray, sums: FloatArray, value: float, metric: Metric) -> Interval:
    """`values` [n] and `rows` [n, k] belong to the scored examples, `sums` [k] are the rows'.

    With unequal weights, few heavy examples would decide on the correction for skewness: it is left out there.
    """
    if metric.aggregation == "macro_f1":
        return macro_f1_interval(rows, value, metric)
    if is_plain_binary(metric, values, rows):
        return wilson_interval(int(values.sum()), len(values))
    replicates = values_of_sums(resampled_sums(rows), metric)
    if not _equal_weights(rows):
        return percentile_interval(replicates, effective_number(rows[:, 1]))
    return corrected_interval(replicates, value, values_of_sums(sums - rows, metric))


def is_plain_binary(metric: Metric, values: FloatArray, rows: FloatArray) -> bool:
    """Right or wrong, with equal weights: intervals and tests of counts are about nothing else."""
    right_or_wrong = metric.binary and metric.aggregation == "mean" and bool(np.isin(values, (0.0, 1.0)).all())
    return right_or_wrong and _equal_weights(rows)


def _equal_weights(rows: FloatArray) -> bool:
    return bool((rows[:, 1] == rows[0, 1]).all())
