"""95 % intervals from counts and from bootstrap replicates. docs/statistics.md shows how often they cover the truth."""

import math
from typing import Literal, NamedTuple

import numpy as np

from moe_ray.comparison.columns import FloatArray
from moe_ray.proportions import CONFIDENCE, Z_95, wilson_bounds

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
