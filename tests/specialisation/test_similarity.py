"""Similarity of representations against plain formulas."""

import numpy as np
import pytest

from moe_ray.specialisation.similarity import cosines, debiased_cka_matrix


def debiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    return float(debiased_cka_matrix([x, y])[0, 1])


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """The biased similarity."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def plain_hsic(k: np.ndarray, l_: np.ndarray) -> float:
    """The unbiased estimator as a mean over all quadruples of different tokens."""
    num, total, count = len(k), 0.0, 0
    for i in range(num):
        for j in range(num):
            for q in range(num):
                for r in range(num):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l_[i, j] + l_[q, r] - 2 * l_[i, q])
                        count += 1
    return total / count


def test_the_debiased_similarity_is_that_of_the_plain_formula() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(2, 1, (9, 5)), rng.normal(-1, 1, (9, 3))
    y[:, 0] += x[:, 0]
    k, l_ = x @ x.T, y @ y.T
    expected = plain_hsic(k, l_) / np.sqrt(plain_hsic(k, k) * plain_hsic(l_, l_))
    assert debiased_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_unrelated_answers_are_only_unlike_where_the_bias_is_removed() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(64, 256)), rng.normal(size=(64, 256))
    assert linear_cka(x, y) > 0.7
    assert abs(debiased_cka(x, y)) < 0.05


def test_a_rotation_and_a_factor_change_nothing() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 8))
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert debiased_cka(x, 3 * x @ rotation) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ rotation) == pytest.approx(1)


def test_what_never_varies_has_no_similarity() -> None:
    x = np.random.default_rng(4).normal(size=(10, 3))
    assert np.isnan(debiased_cka(x, np.ones((10, 3))))
    assert np.isnan(debiased_cka_matrix([x[:3], x[:3]])).all()
    assert np.isnan(cosines(np.zeros((2, 2)))).all()
