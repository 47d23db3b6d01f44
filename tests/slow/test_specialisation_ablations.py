"""Planted truths over many seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.specialisation.ablation.measuring import AblationOptions
from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from tests.specialisation.planted_models import ablated, planted_mixtral, random_texts, tokens_of, twins_mixtral

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NUM_SEEDS, NUM_DRAWS, TEXTS_PER_CLASS = 20, 20, 14
# Changes of the weights of the experts that stay, when one that knows nothing is removed.
SMALL = 0.1


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


def test_an_expert_that_is_used_most_can_be_useless_and_one_that_is_used_least_vital(tmp_path: Path) -> None:
    proportions = []
    for seed in range(NUM_SEEDS):
        busy, vital = seed % 4, tokens_of(0)[seed % 10]
        first = {token: busy for label in (0, 1) for token in tokens_of(label)} | {vital: 5}
        report = report_of(planted_mixtral(first, {5: [vital]}, seed=seed), seed, tmp_path / str(seed), "reroute")
        used = {unit.expert: unit.selected for unit in report.units}
        assert (max(used, key=used.__getitem__), min(used, key=used.__getitem__)) == (busy, 5)
        found = found_losses(report)
        assert (5, "a") in found
        assert not any(expert == busy for expert, _ in found)
        proportions.append(len(found - {(5, "a")}) / len(found))
        (agreement,) = [one for one in report.agreement if one.effect == "specific"]
        assert (agreement.correlation or 0) < 0.5
    assert np.mean(proportions) <= 0.05


def test_zeroing_one_of_identical_experts_changes_something_but_nothing_specific(tmp_path: Path) -> None:
    everything = [token for label in (0, 1) for token in tokens_of(label)]
    rejecting = 0
    for seed in range(NUM_SEEDS):
        rng = np.random.default_rng(seed)
        first = {token: int(expert) for token, expert in zip(everything, rng.permutation(20) % 4, strict=True)}
        model = planted_mixtral(first, dict.fromkeys(range(6), everything), seed=seed)
        report = report_of(model, seed, tmp_path / str(seed), "zero")
        totals = [one for one in report.effects if one.kind == "total" and one.expert < 4]
        assert np.mean([(one.low or 0) > 0 or (one.high or 0) < 0 for one in totals]) >= 0.75
        rejecting += any(one.q_value is not None and one.q_value < 0.05 for one in report.effects)
    assert rejecting <= 3  # P(4 or more of 20) = 1.6 % where each rejects with 5 %


def test_redundant_twins_are_found_together_and_never_alone(tmp_path: Path) -> None:
    for seed in range(NUM_SEEDS):
        model, pair = twins_mixtral(seed)
        texts = random_texts(np.random.default_rng(seed), TEXTS_PER_CLASS)
        given = AblationOptions(operation="reroute", num_draws=NUM_DRAWS, batch_size=NUM_DRAWS + 1, seed=seed)
        singles = ablated(model, texts, tmp_path / f"{seed}-singles", given)
        assert not any(expert in pair for expert, _ in found_losses(make_ablation_report(singles)))
        joint = ablated(model, texts, tmp_path / f"{seed}-joint", given, together=[tuple(sorted(pair))])
        report = make_ablation_report(joint, singles=singles)
        assert found_losses(report) == {(min(pair), "a")}
        (beyond,) = [one for one in report.interactions if one.label == "a"]
        assert (beyond.q_value or 1) < 0.05
        assert (beyond.high or 0) < -SMALL
