"""How often nulls over texts reject, and intervals over texts cover, where texts are clustered."""

from typing import Any

import numpy as np
import pytest

from moe_ray.specialisation import information as info
from moe_ray.specialisation.measures import log_lift
from moe_ray.specialisation.over_texts import jackknife, null_of
from tests.specialisation.planted import clustered_counts, tilted

pytestmark = pytest.mark.slow

NUM_RUNS = 200
# 5 % and three standard errors of a share of 200 runs.
MOST_REJECTIONS = 0.05 + 3 * (0.05 * 0.95 / NUM_RUNS) ** 0.5


def js(totals: Any) -> Any:
    return info.generalised_js(totals)[..., None]


def two_classes(rng: np.random.Generator, size: float, concentration: float) -> tuple[Any, Any]:
    num = 40
    counts = [clustered_counts(rng, tilted(size * at), num, concentration=concentration) for at in (0, 1)]
    return np.concatenate(counts), np.repeat([0, 1], num)


@pytest.mark.parametrize("concentration", [100, 10])
def test_clustered_texts_without_a_difference_are_rejected_in_five_of_a_hundred_runs(concentration: float) -> None:
    rng = np.random.default_rng(int(concentration))
    rejected, lifts, covered = 0, [], []
    for _ in range(NUM_RUNS):
        rows, codes = two_classes(rng, 0.0, concentration)
        rejected += null_of(js, rows, codes, 2, purpose="test", num_permutations=199).upper[0] <= 0.05
        found = jackknife(log_lift, rows, codes, 2)
        low, high = found.interval()
        lifts.append(found.p_values()[0] <= 0.05)
        covered.append((low[0] <= 0) & (high[0] >= 0))
    assert rejected / NUM_RUNS <= MOST_REJECTIONS
    assert np.mean(lifts) <= MOST_REJECTIONS
    assert np.mean(covered) >= 0.90


def test_intervals_of_a_true_difference_cover_it() -> None:
    rng = np.random.default_rng(7)
    truth = np.stack([clustered_counts(rng, tilted(0.3 * at), 20_000, concentration=30).sum(axis=0) for at in (0, 1)])
    true_js, true_lift = float(info.generalised_js(truth)), log_lift(truth)
    in_js, in_lift = [], []
    for _ in range(NUM_RUNS):
        rows, codes = two_classes(rng, 0.3, 30)
        low, high = jackknife(js, rows, codes, 2).interval()
        in_js.append(low[0] <= true_js <= high[0])
        low, high = jackknife(log_lift, rows, codes, 2).interval()
        in_lift.append((low <= true_lift) & (true_lift <= high))
    assert 0.90 <= np.mean(in_js) <= 0.99
    assert 0.93 <= np.mean(in_lift) <= 0.97
