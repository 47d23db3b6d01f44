"""Aggregates of per-example scores with their 95 % intervals, and paired differences. No scores give None, never 0."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from moe_ray.arrays import FloatArray
from moe_ray.comparison.columns import Column
from moe_ray.comparison.matrix import same_reference
from moe_ray.comparison.resampling import (
    CHUNK_ELEMENTS,
    NO_INTERVAL,
    NUM_PERMUTATIONS,
    NUM_RESAMPLES,
    Interval,
    corrected_interval,
    count_rows,
    effective_number,
    exact_sums,
    generator,
    label_rows,
    percentile_interval,
    resampled_sums,
    shares_difference_interval,
    subset_sums,
    summable,
    value_of_sums,
    values_of_sums,
    wilson_interval,
)
from moe_ray.proportions import CONFIDENCE
from moe_ray.scoring.score import Metric

PRIOR_WEIGHT = 0.5
LOW, HIGH = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def macro_f1_interval(rows: FloatArray, value: float, metric: Metric) -> Interval:
    """The interval of `value`, macro-F1 of the `rows` [n, 2 L] of `count_rows`.

    Each label that occurs is given half an example answered rightly. For the lower bound it is also given half an
    example answered wrongly (together, Jeffreys' prior of its recall). For the upper bound it is not: with a single
    error among few examples, that would rule out a model that errs much less.
    """
    labels = _Labels(rows)
    rng = generator("dirichlet", len(rows))
    seen = _drawn_sums(rng, *_grouped(rows)) + _drawn_sums(rng, labels.right, labels.right_weights)
    doubted = seen + _drawn_sums(rng, labels.wrong, labels.wrong_weights)
    low = float(np.quantile(values_of_sums(doubted, metric), LOW))
    high = float(np.quantile(values_of_sums(seen, metric), HIGH))
    return Interval(min(low, value), max(high, value), "dirichlet")


def macro_f1_difference_interval(rows_a: FloatArray, rows_b: FloatArray, difference: float, metric: Metric) -> Interval:
    """The interval of `difference`, macro-F1 of `rows_a` [n, 2 L] minus that of `rows_b`, of the same examples.

    Each label that occurs is given half an example that both answer rightly, half one that only a answers wrongly, and
    half one that only b does.
    """
    labels = _Labels(np.concatenate([rows_a, rows_b]))
    rng = generator("paired dirichlet", len(rows_a))
    sums = _drawn_sums(rng, *_grouped(np.concatenate([rows_a, rows_b], axis=1)))
    for pair, weights in (
        ((labels.right, labels.right), labels.right_weights),
        ((labels.wrong, labels.gold_of_wrong), labels.wrong_weights),
        ((labels.gold_of_wrong, labels.wrong), labels.wrong_weights),
    ):
        sums = sums + _drawn_sums(rng, np.concatenate(pair, axis=1), weights)
    half = rows_a.shape[1]
    drawn = values_of_sums(sums[:, :half], metric) - values_of_sums(sums[:, half:], metric)
    low, high = np.quantile(drawn, [LOW, HIGH])
    return Interval(min(float(low), difference), max(float(high), difference), "dirichlet")


class _Labels:
    """The made-up examples of the k labels that occur in `rows` [n, 2 L], and the weight of each.

    `right` [k, 2 L]; `wrong` [k k, 2 L], in which each label is taken for every other and for none of them;
    `gold_of_wrong`, the same examples answered rightly.
    """

    def __init__(self, rows: FloatArray) -> None:
        num_labels = rows.shape[1] // 2
        occur = np.flatnonzero(rows[:, num_labels:].any(axis=0))
        gold, predicted = _wrong_pairs(occur, none=num_labels)
        flags = np.eye(num_labels + 1)[:, :num_labels]
        self.right = label_rows(flags[occur], flags[occur])
        self.right_weights = np.full(len(self.right), PRIOR_WEIGHT)
        self.wrong = label_rows(flags[gold], flags[predicted])
        self.gold_of_wrong = label_rows(flags[gold], flags[gold])
        self.wrong_weights = np.full(len(self.wrong), PRIOR_WEIGHT / max(1, len(occur)))


def _wrong_pairs(labels: npt.NDArray[np.intp], *, none: int) -> tuple[list[int], list[int]]:
    """Every label with every other one, and with `none`."""
    pairs = [(gold, predicted) for gold in labels for predicted in (*labels, none) if gold != predicted]
    return [gold for gold, _ in pairs], [predicted for _, predicted in pairs]


def _grouped(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Distinct rows, and how often each occurs."""
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    return distinct, counts.astype(np.float64)


def _drawn_sums(rng: np.random.Generator, rows: FloatArray, weights: FloatArray) -> FloatArray:
    """Sums of `rows` [m, k] under gamma-distributed weights with the means `weights` [m]: [NUM_RESAMPLES, k]."""
    sums: npt.NDArray[np.float64] = np.zeros((NUM_RESAMPLES, rows.shape[1]))
    size = max(1, CHUNK_ELEMENTS // NUM_RESAMPLES)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        drawn = rng.standard_gamma(weights[part], size=(NUM_RESAMPLES, len(weights[part])))
        sums += summable(drawn, drawn.max() * rows[part].sum(axis=0).max()) @ rows[part]
    return sums


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


Test = Literal["mcnemar_exact", "paired_permutation"]


class Difference(NamedTuple):
    """System a minus system b over the examples that both have scores for, measured against one reference.

    `p_value` is two-sided, None without pairs or without a test. `num_dropped` counts the domain's other examples.
    """

    difference: float | None
    value_a: float | None
    value_b: float | None
    interval: Interval
    p_value: float | None
    test: Test | None
    num_pairs: int
    num_dropped: int


class _Pairs(NamedTuple):
    """The examples that are compared: what each adds to the metric's sums [n, k], and each system's values [n]."""

    rows_a: FloatArray
    rows_b: FloatArray
    values_a: FloatArray
    values_b: FloatArray

    def are_plain_binary(self, metric: Metric) -> bool:
        """Right or wrong with equal weights."""
        values = np.concatenate([self.values_a, self.values_b])
        return is_plain_binary(metric, values, np.concatenate([self.rows_a, self.rows_b]))

    def disagreements(self) -> tuple[int, int]:
        """In how many pairs only a is better, and only b."""
        return int((self.values_a > self.values_b).sum()), int((self.values_b > self.values_a).sum())


def paired_difference(
    a: Column, b: Column, metric: Metric, labels: Sequence[str] = (), *, test: bool = True
) -> Difference:
    """Compare two columns over the same examples; without `test` there is no p-value.

    Right/wrong metrics get McNemar's exact test; others a permutation test, in which each example's two answers change
    sides with probability 1/2 and the metric is recomputed. The interval of other means is a paired bootstrap's:
    both systems are resampled together.
    """
    both = a.scored & b.scored & same_reference(a, b)
    num_pairs = int(both.sum())
    num_dropped = len(both) - num_pairs
    rows_a, rows_b = count_rows(a, metric, labels)[both], count_rows(b, metric, labels)[both]
    value_a, value_b = value_of_sums(exact_sums(rows_a), metric), value_of_sums(exact_sums(rows_b), metric)
    if value_a is None or value_b is None:
        return Difference(None, value_a, value_b, NO_INTERVAL, None, None, num_pairs, num_dropped)
    difference, pairs = value_a - value_b, _Pairs(rows_a, rows_b, a.values[both], b.values[both])
    interval = _difference_interval(pairs, difference, metric)
    p_value, name = _tested(pairs, difference, metric) if test else (None, None)
    return Difference(difference, value_a, value_b, interval, p_value, name, num_pairs, num_dropped)


def _tested(pairs: _Pairs, difference: float, metric: Metric) -> tuple[float, Test]:
    if pairs.are_plain_binary(metric):
        return mcnemar_p(*pairs.disagreements()), "mcnemar_exact"
    return permutation_p(pairs.rows_a, pairs.rows_b, metric, difference), "paired_permutation"


def _difference_interval(pairs: _Pairs, difference: float, metric: Metric) -> Interval:
    rows_a, rows_b = pairs.rows_a, pairs.rows_b
    if pairs.are_plain_binary(metric):
        return shares_difference_interval(*pairs.disagreements(), len(pairs.values_a))
    if metric.aggregation == "macro_f1":
        return macro_f1_difference_interval(rows_a, rows_b, difference, metric)
    sums = resampled_sums(np.concatenate([rows_a, rows_b], axis=1))
    half = rows_a.shape[1]
    drawn = values_of_sums(sums[:, :half], metric) - values_of_sums(sums[:, half:], metric)
    return percentile_interval(drawn, min(effective_number(rows[:, 1]) for rows in (rows_a, rows_b)))


def mcnemar_p(num_only_a: int, num_only_b: int) -> float:
    """Exact two-sided McNemar test: of the pairs that differ, is each system right in as many as the other?"""
    from scipy.stats import binomtest

    num_differ = num_only_a + num_only_b
    return float(binomtest(num_only_a, num_differ, 0.5).pvalue) if num_differ else 1.0


def permutation_p(rows_a: FloatArray, rows_b: FloatArray, metric: Metric, observed: float) -> float:
    """Share of random exchanges of the two systems' answers that differ at least as much as the systems do.

    Counts the observed arrangement itself, so it is never 0 and never below 1 / (permutations + 1).
    """
    change = rows_b - rows_a
    if not change.any():
        return 1.0
    moved = subset_sums(change)
    exchanged = values_of_sums(rows_a.sum(axis=0) + moved, metric) - values_of_sums(rows_b.sum(axis=0) - moved, metric)
    tolerance = 1e-12 * max(1.0, abs(observed))
    num_extreme = int((np.abs(exchanged) >= abs(observed) - tolerance).sum())
    return (num_extreme + 1) / (NUM_PERMUTATIONS + 1)


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values that keep the false discovery rate over all of `p_values`; None stays None and counts not."""
    known = [(p_value, at) for at, p_value in enumerate(p_values) if p_value is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    lowest = 1.0
    for rank, (p_value, at) in reversed(list(enumerate(sorted(known), start=1))):
        lowest = min(lowest, p_value * len(known) / rank)
        adjusted[at] = lowest
    return adjusted
