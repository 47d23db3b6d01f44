"""How often nulls over texts reject, and intervals over texts cover, where texts are clustered."""

from typing import Any

import numpy as np
import pytest

from moe_ray.specialisation import information as info
from moe_ray.specialisation.measures import classes_of, log_lift
from moe_ray.specialisation.over_texts import jackknife, null_of
from moe_ray.specialisation.records import TokenTrace
from moe_ray.specialisation.sequences import conditional_information
from tests.specialisation.planted import clustered_counts, tilted, trace_of_tokens

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


def test_a_difference_of_vocabulary_alone_is_hardly_ever_found_given_the_token() -> None:
    rejected = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tables, words = rng.normal(0, 1.5, (20, 6)), rng.dirichlet(np.ones(20), 2)
        texts = [
            _text(rng, rng.choice(20, 60, p=rng.dirichlet(20 * words[code])), tables + rng.normal(0, 0.5, 6))
            for code in (0, 1)
            for _ in range(40)
        ]
        trace = trace_of_tokens(texts, ["code"] * 40 + ["law"] * 40, 6)
        found = conditional_information(trace, 0, classes_of(trace.labels))
        rejected += (found.p_value or 0) < 0.05
    assert rejected / 60 <= 0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5


def _text(rng: np.random.Generator, ids: Any, preferences: Any) -> TokenTrace:
    """Tokens whose two experts follow the word and the text, never the class."""
    chosen = np.argsort(-(preferences[ids] + rng.gumbel(size=(len(ids), 6))), axis=1)[:, None, :2]
    return TokenTrace(token_ids=ids.astype(np.int32), experts=chosen.astype(np.int16))
