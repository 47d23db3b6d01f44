"""Resampled sums: the same to the last bit, in whatever order a matrix product adds."""

from fractions import Fraction

import numpy as np
import pytest

from moe_ray.arrays import FloatArray
from moe_ray.comparison.resampling import resampled_sums, subset_sums, summable

RNG = np.random.default_rng(3)
ROWS = {
    "rouge": np.stack([RNG.random(300), np.ones(300)], axis=1),
    "bits": np.stack([RNG.lognormal(8, 3, 300), RNG.integers(1, 10**6, 300).astype(float)], axis=1),
    "treacherous": np.stack([np.resize([1e16, 1.0, -1e16, 0.1], 300), np.ones(300)], axis=1),
    "denormal": np.stack([RNG.random(300) * 1e-310, np.full(300, 1e-300)], axis=1),
    "nothing": np.zeros((300, 2)),
    "many": np.stack([RNG.random(12_000), np.ones(12_000)], axis=1),
}


@pytest.mark.parametrize("name", ROWS)
def test_sums_of_summable_rows_are_exact_in_every_order(name: str) -> None:
    rows = ROWS[name][:300]
    units = summable(rows, 300 * np.abs(rows).max(axis=0))
    weights = RNG.multinomial(300, np.full(300, 1 / 300), size=4).astype(float)
    truth = exact_product(weights, units)
    for _ in range(5):
        order = RNG.permutation(300)
        assert (weights[:, order] @ units[order] == truth).all()


def exact_product(weights: FloatArray, units: FloatArray) -> FloatArray:
    """The matrix product in fractions, rounded once."""
    return np.array([[exact_dot(row, column) for column in units.T] for row in weights])


def exact_dot(a: FloatArray, b: FloatArray) -> float:
    return float(sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction()))


@pytest.mark.parametrize("name", ROWS)
def test_rounding_changes_a_row_by_no_more_than_a_float_can_tell_of_the_sum(name: str) -> None:
    rows = ROWS[name]
    bound = len(rows) * np.abs(rows).max(axis=0)
    assert (np.abs(summable(rows, bound) - rows) <= 2.3e-16 * bound).all()


@pytest.mark.parametrize("name", ["rouge", "many"])
def test_a_bootstraps_means_have_the_variance_of_n_independent_examples(name: str) -> None:
    values = ROWS[name][:, 0]
    sums = resampled_sums(ROWS[name])
    assert (sums[:, 0] / sums[:, 1]).var() == pytest.approx(values.var() / len(values), rel=0.12)


@pytest.mark.parametrize("name", ["rouge", "bits"])
def test_sums_of_random_subsets_have_a_quarter_of_the_sum_of_squares_as_variance(name: str) -> None:
    values = ROWS[name][:, :1]
    assert subset_sums(values).var() == pytest.approx((values**2).sum() / 4, rel=0.12)
