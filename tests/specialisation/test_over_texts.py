"""Nulls and intervals over texts: exact on small cases. Their calibration is in tests/slow."""

from typing import Any

import numpy as np
import pytest

from moe_ray.specialisation import information as info
from moe_ray.specialisation.over_texts import class_sums, jackknife, null_of
from tests.specialisation.planted import clustered_counts, tilted


def js(totals: Any) -> Any:
    return info.generalised_js(totals)[..., None]


def two_classes(rng: np.random.Generator, size: float, concentration: float) -> tuple[Any, Any]:
    num = 40
    counts = [clustered_counts(rng, tilted(size * at), num, concentration=concentration) for at in (0, 1)]
    return np.concatenate(counts), np.repeat([0, 1], num)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 4))
    codes = np.repeat([0, 1, 2], 10)
    sizes = np.array([10, 10, 10])[:, None]
    found = jackknife(lambda totals: (totals / sizes).sum(axis=-2), rows, codes, 3)
    expected = sum(rows[codes == code].var(axis=0, ddof=1) / 10 for code in range(3)) ** 0.5
    # A mean of n - 1 texts is divided by n here: the same factor in value and spread.
    assert found.value == pytest.approx(sum(rows[codes == code].mean(axis=0) for code in range(3)))
    assert found.error == pytest.approx(expected * 0.9, rel=1e-9)
    assert found.degrees == 27


def test_leaving_out_one_text_at_a_time_is_what_a_plain_loop_gives() -> None:
    rows, codes = two_classes(np.random.default_rng(2), 0.3, 30)
    found = jackknife(js, rows, codes, 2)
    value = float(js(class_sums(rows, codes, 2))[0])
    bias = variance = 0.0
    for code in (0, 1):
        kept = [np.arange(len(rows)) != at for at in np.flatnonzero(codes == code)]
        without = np.array([float(js(class_sums(rows[one], codes[one], 2))[0]) for one in kept])
        bias += 39 * (without.mean() - value)
        variance += 39 / 40 * ((without - without.mean()) ** 2).sum()
    assert found.value[0] == pytest.approx(value, rel=1e-12)
    assert found.corrected[0] == pytest.approx(value - bias, rel=1e-9)
    assert found.error[0] == pytest.approx(variance**0.5, rel=1e-9)


def test_a_permutation_moves_whole_texts_and_repeats_itself() -> None:
    rows, codes = two_classes(np.random.default_rng(3), 0.0, 10)
    first = null_of(js, rows, codes, 2, purpose="test")
    assert all((a == b).all() for a, b in zip(first, null_of(js, rows, codes, 2, purpose="test"), strict=True))
    # Tokens of clustered texts are not independent: permuting them would give a far smaller null.
    independent = (info.generalised_js(np.random.default_rng(0).multinomial(12000, np.full(6, 1 / 6), (99, 2)))).mean()
    assert first.mean[0] > 3 * independent


def test_equal_texts_reject_nothing() -> None:
    rows, codes = np.ones((20, 5)), np.repeat([0, 1], 10)
    found = null_of(js, rows, codes, 2, purpose="test")
    assert found.upper == pytest.approx(1)
    assert jackknife(js, rows, codes, 2).error == pytest.approx(0)
