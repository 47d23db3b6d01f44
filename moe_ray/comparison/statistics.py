"""Aggregates of per-example scores, with their 95 % intervals. No scores give None, never 0."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from moe_ray.comparison.columns import Column, FloatArray
from moe_ray.comparison.resampling import NUM_RESAMPLES, generator, resampled_sums
from moe_ray.scoring.score import Metric

IntervalMethod = Literal["wilson", "bootstrap", "dirichlet"]

CONFIDENCE = 0.95
Z_95 = 1.959963984540054
ROUNDING = 1e-12


class Interval(NamedTuple):
    """Bounds of a 95 % interval; both None, with the method, where the examples cannot give one."""

    low: float | None
    high: float | None
    method: IntervalMethod | None


class Aggregate(NamedTuple):
    """A metric's value over the scored examples of a column."""

    value: float | None
    interval: Interval
    num_scored: int
    num_unscored: int


NO_INTERVAL = Interval(None, None, None)


def aggregate(column: Column, metric: Metric, labels: Sequence[str] = ()) -> Aggregate:
    """Aggregate the scored examples of `column` as `metric` says.

    `labels` are the domain's gold labels, for macro-F1. A predicted label outside of them counts against its gold label
    alone.
    """
    scored = column.scored
    rows = count_rows(column, metric, labels)[scored]
    value = value_of_sums(exact_sums(rows), metric)
    interval = NO_INTERVAL if value is None else _interval(column, rows, value, metric, labels)
    num_scored = int(scored.sum())
    return Aggregate(value, interval, num_scored, len(scored) - num_scored)


def count_rows(column: Column, metric: Metric, labels: Sequence[str]) -> FloatArray:
    """What each example adds to the sums that the metric is a function of: [n, k].

    Means: weighted value, weight. Macro-F1 over L labels: true positives [L], then gold + predicted counts [L].
    Unscored examples add nothing.
    """
    if metric.aggregation == "mean":
        values = np.nan_to_num(column.values, nan=0.0)
        return np.stack([values * column.weights, column.weights], axis=1) * column.scored[:, None]
    gold = np.stack([column.golds == label for label in labels], axis=1, dtype=np.float64) if labels else None
    if gold is None:
        return np.zeros((len(column.values), 2))
    predicted = np.stack([column.labels == label for label in labels], axis=1, dtype=np.float64)
    return np.concatenate([gold * predicted, gold + predicted], axis=1) * column.scored[:, None]


def exact_sums(rows: FloatArray) -> FloatArray:
    """Column sums of `rows` [n, k], correctly rounded: the same bits for every order and partition of the rows."""
    return np.array([math.fsum(column.tolist()) for column in rows.T])


def value_of_sums(sums: FloatArray, metric: Metric) -> float | None:
    """The metric from the sums of `count_rows`; None where nothing was counted."""
    value = float(values_of_sums(sums[None, :], metric)[0])
    return None if math.isnan(value) else value


def values_of_sums(sums: FloatArray, metric: Metric) -> FloatArray:
    """The metric of each row of `sums` [b, k]: [b], NaN where nothing was counted.

    A label that is neither gold nor predicted in a row has no F1 there and is left out of its mean.
    """
    half = sums.shape[1] // 2
    parts, wholes = sums[:, :half], sums[:, half:]
    factor = 1.0 if metric.aggregation == "mean" else 2.0
    ratios = np.divide(factor * parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
    num_counted = (wholes > 0).sum(axis=1)
    total = ratios.sum(axis=1)
    values: FloatArray = np.divide(total, num_counted, out=np.full(len(sums), np.nan), where=num_counted > 0)
    return values


def _interval(column: Column, rows: FloatArray, value: float, metric: Metric, labels: Sequence[str]) -> Interval:
    """`rows` [n, k] belong to the scored examples of `column`."""
    values = column.values[column.scored]
    if metric.aggregation == "macro_f1":
        return macro_f1_interval(confusion_counts(column, labels), value)
    if metric.binary and _is_plain_binary(values, rows):
        return wilson_interval(int(values.sum()), len(values))
    return percentile_interval(values_of_sums(resampled_sums(rows), metric), len(rows))


def confusion_counts(column: Column, labels: Sequence[str]) -> FloatArray:
    """Scored examples by gold label [L] and predicted label, the last column for all others: [L, L + 1]."""
    places = {label: at for at, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + 1))
    scored = column.scored
    for gold, label in zip(column.golds[scored].tolist(), column.labels[scored].tolist(), strict=True):
        counts[places[gold], places.get(label, len(labels))] += 1
    return counts


def macro_f1_interval(counts: FloatArray, value: float) -> Interval:
    """Quantiles of macro-F1 under a Dirichlet posterior of the confusion `counts` [L, L + 1].

    The prior gives each gold label half an example answered rightly, and half one spread over the wrong answers
    (Jeffreys' prior of its recall). So a handful of answers that are all right still leave doubt, where the
    bootstrap would see none.
    """
    seen = (counts.sum(axis=1) + counts[:, :-1].sum(axis=0)) > 0
    counts = counts[seen][:, np.append(seen, True)]
    num_labels = len(counts)
    prior = np.full(counts.shape, 0.5 / num_labels)
    prior[np.arange(num_labels), np.arange(num_labels)] = 0.5
    rng = generator("dirichlet", int(counts.sum()))
    drawn = rng.standard_gamma(counts + prior, size=(NUM_RESAMPLES, *counts.shape))
    right = np.diagonal(drawn, axis1=1, axis2=2)
    f1 = 2 * right / (drawn.sum(axis=2) + drawn.sum(axis=1)[:, :-1])
    low, high = np.quantile(f1.mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(min(float(low), value), max(float(high), value), "dirichlet")


def _is_plain_binary(values: FloatArray, rows: FloatArray) -> bool:
    """Right or wrong, with equal weights: Wilson's interval is about nothing else."""
    return bool(np.isin(values, (0.0, 1.0)).all() and (rows[:, 1] == rows[0, 1]).all())


def wilson_interval(num_right: int, num_scored: int) -> Interval:
    """Wilson's score interval for a proportion; `num_scored` is at least 1."""
    share = num_right / num_scored
    spread = Z_95**2 / num_scored
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / num_scored + spread / (4 * num_scored))
    low = 0.0 if num_right == 0 else max(0.0, centre - half)
    high = 1.0 if num_right == num_scored else min(1.0, centre + half)
    return Interval(low, high, "wilson")


def percentile_interval(replicates: FloatArray, num_examples: int) -> Interval:
    """The percentile bootstrap's interval, its percentiles moved outwards for few examples.

    With n examples the bootstrap's spread is too small by sqrt((n-1)/n), and a normal quantile stands where
    Student's belongs; the percentiles are those that make up for both (Hesterberg 2015, "expanded percentile"). One
    example, or examples that are all equal, say nothing about their spread: then there is no interval, instead
    of one of no width.
    """
    from scipy.special import ndtr, stdtrit

    finite = replicates[~np.isnan(replicates)]
    if num_examples < 2 or len(finite) == 0 or float(np.ptp(finite)) <= ROUNDING * float(np.abs(finite).max()):
        return NO_INTERVAL
    student = float(stdtrit(num_examples - 1, (1 + CONFIDENCE) / 2))
    tail = float(ndtr(-math.sqrt(num_examples / (num_examples - 1)) * student))
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Interval(float(low), float(high), "bootstrap")
