"""Planted truths over many seeds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe_ray.specialisation.ablation.measuring import AblationOptions
from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from tests.specialisation.planted_models import ablated, planted_mixtral, random_texts, tokens_of

pytestmark = pytest.mark.slow

NUM_SEEDS, NUM_DRAWS, TEXTS_PER_CLASS = 20, 20, 14
# Changes of the weights of the experts that stay, when one that knows nothing is removed.
SMALL = 0.1


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads wait for each other longer than such small models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def report_of(model: Any, seed: int, out: Path, operation: Any) -> AblationReport:
    options = AblationOptions(operation=operation, num_draws=NUM_DRAWS, batch_size=NUM_DRAWS + 1, seed=seed)
    texts = random_texts(np.random.default_rng(seed), TEXTS_PER_CLASS)
    return make_ablation_report(ablated(model, texts, out, options))


def found_losses(report: AblationReport) -> set[tuple[int, str]]:
    return {
        (one.expert, one.label)
        for one in report.effects
        if one.kind == "specific" and one.q_value is not None and one.q_value < 0.05 and (one.value or 0) < -SMALL
    }


def test_an_expert_that_one_class_needs_is_found_in_every_seed_and_no_other(tmp_path: Path) -> None:
    proportions = []
    for seed in range(NUM_SEEDS):
        needed, other = seed % 4, (seed + 1) % 4
        first = {token: needed if place % 2 else other for place, token in enumerate(tokens_of(0))}
        first |= {token: (seed + 2 + place % 2) % 4 for place, token in enumerate(tokens_of(1))}
        model = planted_mixtral(first, {needed: [token for token in tokens_of(0) if first[token] == needed]}, seed=seed)
        found = found_losses(report_of(model, seed, tmp_path / str(seed), "reroute"))
        assert (needed, "a") in found
        proportions.append(len(found - {(needed, "a")}) / len(found))
    assert np.mean(proportions) <= 0.05
