"""Paired comparison of two systems on the same examples: difference, interval, p-value."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.comparison.columns import Column
from moe_ray.comparison.matrix import same_reference
from moe_ray.comparison.resampling import (
    NO_INTERVAL,
    NUM_PERMUTATIONS,
    Interval,
    count_rows,
    effective_number,
    exact_sums,
    percentile_interval,
    resampled_sums,
    shares_difference_interval,
    subset_sums,
    value_of_sums,
    values_of_sums,
)
from moe_ray.comparison.statistics import is_plain_binary, macro_f1_difference_interval
from moe_ray.scoring.score import Metric

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
    sides with probability 1/2 and the metric is computed anew. The interval of other means is a paired bootstrap's:
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
