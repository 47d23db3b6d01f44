"""Two systems on the same examples: the difference, its interval, and how surprising it would be by chance."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from moe_ray.comparison.columns import Column, FloatArray
from moe_ray.comparison.intervals import (
    NO_INTERVAL,
    Interval,
    effective_number,
    percentile_interval,
    shares_difference_interval,
)
from moe_ray.comparison.posterior import macro_f1_difference_interval
from moe_ray.comparison.resampling import NUM_PERMUTATIONS, resampled_sums, subset_sums
from moe_ray.comparison.statistics import is_plain_binary
from moe_ray.comparison.sums import count_rows, exact_sums, value_of_sums, values_of_sums
from moe_ray.scoring.score import Metric

Test = Literal["mcnemar_exact", "paired_permutation"]


class Difference(NamedTuple):
    """System a minus system b over the examples that both have scores for.

    `p_value` is two-sided, None without pairs. `num_dropped` counts the domain's other examples.
    """

    difference: float | None
    value_a: float | None
    value_b: float | None
    interval: Interval
    p_value: float | None
    test: Test | None
    num_pairs: int
    num_dropped: int


def paired_difference(a: Column, b: Column, metric: Metric, labels: Sequence[str] = ()) -> Difference:
    """Compare two columns over the same examples.

    Right/wrong metrics get McNemar's exact test; others a permutation test, in which each example's two answers change
    sides with probability 1/2 and the metric is computed anew. The interval of other means is a paired bootstrap's:
    both systems are resampled together.
    """
    both = a.scored & b.scored
    num_pairs = int(both.sum())
    num_dropped = len(both) - num_pairs
    rows_a, rows_b = count_rows(a, metric, labels)[both], count_rows(b, metric, labels)[both]
    value_a, value_b = value_of_sums(exact_sums(rows_a), metric), value_of_sums(exact_sums(rows_b), metric)
    if value_a is None or value_b is None:
        return Difference(None, value_a, value_b, NO_INTERVAL, None, None, num_pairs, num_dropped)
    difference = value_a - value_b
    values = np.concatenate([a.values[both], b.values[both]])
    if is_plain_binary(metric, values, np.concatenate([rows_a, rows_b])):
        only_a, only_b = _disagreements(a.values[both], b.values[both])
        interval, p_value = shares_difference_interval(only_a, only_b, num_pairs), mcnemar_p(only_a, only_b)
        test: Test = "mcnemar_exact"
    else:
        interval = _difference_interval(rows_a, rows_b, difference, metric)
        p_value, test = permutation_p(rows_a, rows_b, metric, difference), "paired_permutation"
    return Difference(difference, value_a, value_b, interval, p_value, test, num_pairs, num_dropped)


def _disagreements(a: FloatArray, b: FloatArray) -> tuple[int, int]:
    return int((a > b).sum()), int((b > a).sum())


def _difference_interval(rows_a: FloatArray, rows_b: FloatArray, difference: float, metric: Metric) -> Interval:
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
