"""Sums over examples, bootstrap resamples of them, and intervals."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from moe_ray.arrays import FloatArray
from moe_ray.comparison.columns import Column
from moe_ray.fingerprint import fingerprint
from moe_ray.proportions import CONFIDENCE, Z_95, wilson_bounds
from moe_ray.scoring.score import Metric


def count_rows(column: Column, metric: Metric, labels: Sequence[str]) -> FloatArray:
    """What each example adds to the sums that the metric is a function of: [n, k].

    Means: weighted value, weight. Macro-F1 over L labels: see `label_rows`. Unscored examples add nothing.
    """
    if metric.aggregation == "mean":
        values = np.nan_to_num(column.values, nan=0.0)
        return np.stack([values * column.weights, column.weights], axis=1) * column.scored[:, None]
    if not labels:
        return np.zeros((len(column.values), 2))
    gold = np.stack([column.golds == label for label in labels], axis=1, dtype=np.float64)
    predicted = np.stack([column.labels == label for label in labels], axis=1, dtype=np.float64)
    return label_rows(gold, predicted) * column.scored[:, None]


def label_rows(gold: FloatArray, predicted: FloatArray) -> FloatArray:
    """True positives [L], then gold + predicted counts [L], of examples whose labels are given as 0 or 1: [n, 2 L]."""
    return np.concatenate([gold * predicted, gold + predicted], axis=1)


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


NUM_RESAMPLES = 2000
NUM_PERMUTATIONS = 9999
MAX_UNITS = 5000
CHUNK_ELEMENTS = 4 * 10**6
# One less than a float's, because rounding may exceed the bound.
SUM_BITS = 52
SMALLEST_FLOAT = 5e-324


def resampled_sums(rows: FloatArray) -> FloatArray:
    """Sums of `rows` [n, k] over bootstrap resamples of the n examples: [NUM_RESAMPLES, k]."""
    units = _units(rows)
    return _weighted_sums(_resample_counts(len(units)), units)


def subset_sums(rows: FloatArray) -> FloatArray:
    """Sums of `rows` [n, k] over random subsets: every example is in with probability 1/2. [NUM_PERMUTATIONS, k]."""
    units = _units(rows)
    rng = generator("permutation", len(units))
    size = max(1, CHUNK_ELEMENTS // len(units))
    sizes = [min(size, NUM_PERMUTATIONS - start) for start in range(0, NUM_PERMUTATIONS, size)]
    return np.concatenate(
        [_weighted_sums(rng.integers(0, 2, (size, len(units)), dtype=np.uint8), units) for size in sizes]
    )


def generator(purpose: str, num_examples: int) -> np.random.Generator:
    """A random source that depends on what it is for and on the number of examples, and on nothing else."""
    seed = int(fingerprint({"purpose": purpose, "num_examples": num_examples}), 16)
    return np.random.Generator(np.random.PCG64(seed))


def summable(values: FloatArray, bound: npt.ArrayLike) -> FloatArray:
    """Return `values` [n, k] rounded to multiples of a power of two, so that sums of them up to `bound` ([k] or one for
    all) are exact.

    A matrix product adds in an order that the processor and the number of threads decide; exact sums are the same in
    every order. What is rounded away is below 2e-16 of the bound.
    """
    _, exponent = np.frexp(bound)
    step = np.maximum(np.ldexp(1.0, exponent - SUM_BITS), SMALLEST_FLOAT)
    rounded: FloatArray = np.rint(values / step) * step
    return rounded


def _units(rows: FloatArray) -> FloatArray:
    """What is resampled: the rows themselves, or the sums of MAX_UNITS random blocks of them; their sums are exact."""
    units = rows if len(rows) <= MAX_UNITS else _blocks(rows)
    return summable(units, len(units) * np.abs(units).max(axis=0))


def _blocks(rows: FloatArray) -> FloatArray:
    shuffled = rows[generator("blocks", len(rows)).permutation(len(rows))]
    starts = np.arange(MAX_UNITS) * len(rows) // MAX_UNITS
    units: FloatArray = np.add.reduceat(shuffled, starts, axis=0)
    return units


@lru_cache(maxsize=4)
def _resample_counts(num_units: int) -> npt.NDArray[np.uint16]:
    """How often each unit is drawn: [NUM_RESAMPLES, num_units], each row multinomial over as many draws as units.

    Kept, because the metrics and systems of a domain share their number of examples.
    """
    rng = generator("bootstrap", num_units)
    drawn = rng.integers(0, num_units, (NUM_RESAMPLES, num_units), dtype=np.int64)
    drawn += np.arange(NUM_RESAMPLES)[:, None] * num_units
    counts = np.bincount(drawn.ravel(), minlength=NUM_RESAMPLES * num_units)
    return counts.astype(np.uint16).reshape(NUM_RESAMPLES, num_units)


def _weighted_sums(counts: npt.NDArray[np.unsignedinteger], units: FloatArray) -> FloatArray:
    """`counts` [b, n] times `units` [n, k], a part at a time so that the floats of few resamples are in memory."""
    size = max(1, CHUNK_ELEMENTS // len(units))
    return np.concatenate(
        [counts[start : start + size].astype(np.float64) @ units for start in range(0, len(counts), size)]
    )


IntervalMethod = Literal["wilson", "bootstrap", "dirichlet"]

ROUNDING = 1e-12


class Interval(NamedTuple):
    """Bounds of a 95 % interval; both None, with the method, where the examples cannot give one."""

    low: float | None
    high: float | None
    method: IntervalMethod | None

    def holds(self, value: float) -> bool:
        """True where `value` lies within both bounds, and where there are none."""
        return self.low is None or self.high is None or self.low <= value <= self.high


NO_INTERVAL = Interval(None, None, None)


def wilson_interval(num_right: int, num_scored: int) -> Interval:
    """Wilson's interval, as `wilson_bounds` tells it."""
    return Interval(*wilson_bounds(num_right, num_scored), "wilson")


def shares_difference_interval(num_only_a: int, num_only_b: int, num_pairs: int) -> Interval:
    """Difference of two paired proportions, of which `num_only_a` and `num_only_b` pairs are right in one alone.

    The normal approximation, after one pair was added to each kind of disagreement (Bonett and Price 2012). So pairs
    that all agree still leave doubt.
    """
    only_a, only_b = (num_only_a + 1) / (num_pairs + 2), (num_only_b + 1) / (num_pairs + 2)
    centre = only_a - only_b
    half = Z_95 * math.sqrt((only_a + only_b - centre**2) / (num_pairs + 2))
    return Interval(max(-1.0, centre - half), min(1.0, centre + half), "wilson")


def effective_number(weights: FloatArray) -> float:
    """How many examples of equal weight would have a mean as uncertain as examples with `weights` [n] (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0


def percentile_interval(replicates: FloatArray, num_examples: float) -> Interval:
    """The percentile bootstrap's interval, its percentiles moved outwards for few (effective) examples.

    With n examples the bootstrap's spread is too small by sqrt((n-1)/n), and a normal quantile stands where
    Student's belongs; the percentiles are those that make up for both (Hesterberg 2015, "expanded percentile"). One
    example, or examples that are all equal, say nothing about their spread: then there is no interval, instead
    of one of no width.
    """
    from scipy.special import ndtr

    if num_examples <= 1 or not _vary(replicates):
        return NO_INTERVAL
    tail = float(ndtr(-_expanded_z(num_examples)))
    return _between(replicates, tail, 1 - tail)


def corrected_interval(replicates: FloatArray, value: float, without_one: FloatArray) -> Interval:
    """As `percentile_interval`, corrected for bias and skewness (Efron 1987, "BCa").

    `without_one` [n] holds the value without each of the n examples: its skewness says how the spread changes with
    the truth. For values of which most are 0, or 1.
    """
    from scipy.special import ndtr, ndtri

    num_examples = len(without_one)
    if num_examples < 2 or not _vary(replicates):
        return NO_INTERVAL
    bias = float(ndtri(_share_below(replicates, value)))
    skew = _acceleration(without_one)
    z = _expanded_z(num_examples)
    shifted = (bias - z, bias + z)
    low, high = (float(ndtr(bias + each / max(1 - skew * each, ROUNDING))) for each in shifted)
    return _between(replicates, low, high)


def _vary(replicates: FloatArray) -> bool:
    finite = replicates[~np.isnan(replicates)]
    return len(finite) > 0 and float(np.ptp(finite)) > ROUNDING * float(np.abs(finite).max())


def _expanded_z(num_examples: float) -> float:
    from scipy.special import stdtrit

    return math.sqrt(num_examples / (num_examples - 1)) * float(stdtrit(num_examples - 1, (1 + CONFIDENCE) / 2))


def _between(replicates: FloatArray, low: float, high: float) -> Interval:
    bounds = np.quantile(replicates[~np.isnan(replicates)], [low, high])
    return Interval(float(bounds[0]), float(bounds[1]), "bootstrap")


def _share_below(replicates: FloatArray, value: float) -> float:
    """Share of replicates below `value`, half of those equal to it included; never 0 or 1."""
    finite = replicates[~np.isnan(replicates)]
    equal = np.abs(finite - value) <= ROUNDING * np.abs(finite).max()
    num_below = float((finite[~equal] < value).sum()) + float(equal.sum()) / 2
    return (num_below + 0.5) / (len(finite) + 1)


def _acceleration(without_one: FloatArray) -> float:
    """A sixth of the skewness of the examples' influence, over the square root of their number."""
    influence = np.nanmean(without_one) - without_one[~np.isnan(without_one)]
    largest = float(np.abs(influence).max())
    if largest == 0:
        return 0.0
    scaled = influence / largest  # so that cubes of tiny values do not vanish
    return float((scaled**3).sum() / (6 * (scaled**2).sum() ** 1.5))
