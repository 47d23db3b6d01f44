"""pass@k by simulation: the estimator against drawing, and its mean over many experiments against the closed form."""

import math

import numpy as np
import pytest

from moe_ray.scoring.code import pass_at_k

NUM_DRAWS = 20_000
FOUR_STANDARD_ERRORS = 4.0


def share_of_draws_with_a_right_one(num_samples: int, num_correct: int, k: int) -> float:
    """Shuffle the samples again and again; how often is one of the first `num_correct` among the k that come first?"""
    random = np.random.default_rng([num_samples, num_correct, k])
    drawn = random.random((NUM_DRAWS, num_samples)).argsort(axis=1)[:, :k]
    return float((drawn < num_correct).any(axis=1).mean())


@pytest.mark.parametrize(
    ("num_samples", "num_correct", "k"),
    [(5, 1, 1), (5, 2, 3), (10, 3, 5), (20, 1, 10), (20, 7, 5), (50, 2, 10), (50, 5, 1), (100, 1, 100), (100, 0, 10)],
)
def test_the_estimator_is_the_share_of_draws_without_replacement(num_samples: int, num_correct: int, k: int) -> None:
    expected = pass_at_k(num_samples, num_correct, k)
    standard_error = math.sqrt(expected * (1 - expected) / NUM_DRAWS)
    found = share_of_draws_with_a_right_one(num_samples, num_correct, k)
    assert found == pytest.approx(expected, abs=FOUR_STANDARD_ERRORS * standard_error + 1e-12)


@pytest.mark.parametrize(("num_samples", "k", "skill"), [(10, 1, 0.3), (10, 5, 0.1), (20, 10, 0.05), (100, 10, 0.02)])
def test_the_estimator_is_unbiased(num_samples: int, k: int, skill: float) -> None:
    """A model that is right with chance p passes at k with chance 1 - (1-p)^k; c/n in place of p falls short of it."""
    counts = np.random.default_rng(7).binomial(num_samples, skill, NUM_DRAWS)
    estimates = np.array([pass_at_k(num_samples, int(count), k) for count in counts])
    truth = 1 - (1 - skill) ** k
    standard_error = estimates.std() / math.sqrt(NUM_DRAWS)
    assert estimates.mean() == pytest.approx(truth, abs=FOUR_STANDARD_ERRORS * standard_error)
    if k > 1:
        plugged_in = 1 - (1 - counts / num_samples) ** k
        assert plugged_in.mean() < truth - FOUR_STANDARD_ERRORS * standard_error
