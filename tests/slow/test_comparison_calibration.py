"""Experts of unrelated routers match better than chance in no more than 5 % of many runs."""

import numpy as np
import pytest

from tests.specialisation.planted_routers import num_rejected

NUM_RUNS = 200


@pytest.mark.slow
@pytest.mark.parametrize("follows", ["same features", "no features"])
def test_strangers_are_matched_in_at_most_5_percent_of_200_runs(follows: str) -> None:
    assert num_rejected(follows, NUM_RUNS) <= NUM_RUNS * 0.05 + 3 * np.sqrt(NUM_RUNS * 0.05 * 0.95)
