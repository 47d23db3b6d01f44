"""Ablations of mixtures whose truth is known: what is needed is found, what is not read again did not change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.likelihood import score_batch
from moe_ray.mixtures.intervening import intervened
from moe_ray.mixtures.interventions import Intervention
from moe_ray.specialisation.ablation.controls import control_draws
from moe_ray.specialisation.ablation.measuring import AblationMeter, AblationOptions, RemovedUnit
from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from moe_ray.specialisation.tracing import TracingOptions, trace_texts
from tests.specialisation.families import NUM_EXPERTS, TOP_K, encoded, loaded, make, rows
from tests.specialisation.planted_models import ablated, planted_mixtral, random_texts, scored, tokens_of

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_DRAWS = 20
TEXTS_PER_CLASS = 14
# Smaller changes are those of the weights of the experts that stay, not of what an expert knows.
SMALL = 0.1


def options(operation: Any = "reroute", **more: Any) -> AblationOptions:
    return AblationOptions(operation=operation, num_draws=NUM_DRAWS, **{"batch_size": NUM_DRAWS + 1, **more})


def losses(report: AblationReport, kind: str) -> set[tuple[int, str]]:
    """Experts and classes with a loss that is found and not small."""
    return {
        (one.expert, one.label)
        for one in report.effects
        if one.kind == kind and one.q_value is not None and one.q_value < 0.05 and (one.value or 0) < -SMALL
    }


def test_an_expert_that_one_class_needs_is_found_and_no_other(tmp_path: Path) -> None:
    first = {token: 2 if place % 2 else 0 for place, token in enumerate(tokens_of(0))}
    first |= {token: 3 if place % 2 else 1 for place, token in enumerate(tokens_of(1))}
    model = planted_mixtral(first, {2: [token for token, expert in first.items() if expert == 2]}, seed=1)
    texts = random_texts(np.random.default_rng(1), TEXTS_PER_CLASS)
    report = make_ablation_report(ablated(model, texts, tmp_path / "a", options()))
    assert losses(report, "specific") == {(2, "a")}
    # Draws against expert 0 remove expert 2 on class a, so that expert 0 is needed less there than on class b.
    assert (2, "a") in losses(report, "selective") <= {(2, "a"), (0, "b")}
    (sentence,) = [unit.sentence for unit in report.units if unit.expert == 2]
    assert sentence.startswith("expert 2, layer 0: removing it costs a ")
    assert "worse than removing as much from other experts, specific q < 0.001, selective q < 0.001" in sentence
    (unused,) = [unit for unit in report.units if unit.expert == 5]
    assert unused.sentence == "expert 5, layer 0: no token selects it: removing it changes nothing"
    assert unused.num_texts_touched == 0


def test_a_busy_expert_can_be_useless_and_a_rare_one_vital(tmp_path: Path) -> None:
    (vital, *_) = tokens_of(0)
    first = {token: 0 for label in (0, 1) for token in tokens_of(label)} | {vital: 5}
    model = planted_mixtral(first, {5: [vital]}, seed=2)
    texts = random_texts(np.random.default_rng(2), TEXTS_PER_CLASS)
    report = make_ablation_report(ablated(model, texts, tmp_path / "a", options()))
    used = {unit.expert: unit.selected for unit in report.units}
    assert max(used, key=lambda expert: used[expert]) == 0
    assert min(used, key=lambda expert: used[expert]) == 5
    assert losses(report, "specific") == {(5, "a")}
    assert all((one.correlation or 0) < 0 for one in report.agreement if one.effect == "specific")
    assert any("too few selections for a whole control: expert 0, layer 0" in note for note in report.notes)


@pytest.mark.parametrize("operation", ["renormalise", "reroute", "swap"])
def test_identical_experts_cost_nothing_whichever_is_removed(tmp_path: Path, operation: str) -> None:
    first = {token: token % 4 for label in (0, 1) for token in tokens_of(label)}
    everything = [token for label in (0, 1) for token in tokens_of(label)]
    model = planted_mixtral(first, dict.fromkeys(range(NUM_EXPERTS), everything), seed=3)
    found = ablated(model, random_texts(np.random.default_rng(3), 3), tmp_path / "a", options(operation))
    assert np.abs(found.removed).max() <= 1e-5
    assert np.abs(found.controls).max() <= 1e-5
    assert found.num_removed.sum() > 0


def test_texts_that_no_token_routes_to_an_expert_do_not_change_at_all(tmp_path: Path) -> None:
    model = make("olmoe")
    texts = [(row, "ab"[at % 2]) for at, row in enumerate(rows(6, 5).tolist())]
    found = ablated(model, texts, tmp_path / "a", options(batch_size=1))
    untouched = found.num_removed == 0
    assert untouched.any()
    assert (~untouched).any()
    assert (found.removed[untouched] == 0.0).all()
    assert (found.controls[untouched] == 0.0).all()
    assert (found.removed[~untouched] != 0.0).all()


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "afmoe", "jamba"])
@pytest.mark.parametrize("at", [0, 1, None])
def test_a_change_is_that_of_reading_the_text_under_the_intervention(family: str, at: int | None) -> None:
    """Also where the pass starts from the states of earlier layers; with one variant at a time, to the last bit."""
    model = make(family)
    sites = sites_of(loaded(model), name=family)
    text = scored(rows(1)[0].tolist(), "a", "t")
    meter = AblationMeter(loaded(model), sites, [RemovedUnit(expert=1, at=at)], options(batch_size=1), name=family)
    (row,) = text.rows
    intact = text.score(score_batch(loaded(model), [row])[0].loglikelihoods)
    for _ in range(2):
        measured = meter.measure(text)
        assert measured.intact == intact
        layers = "" if at is None else f"@{at}"
        with intervened(sites, Intervention.parse(f"reroute:1{layers}"), name=family):
            slow = text.score(score_batch(loaded(model), [row])[0].loglikelihoods)
        assert measured.removed.tolist() == [slow - intact]
        assert score_batch(loaded(model), [row])[0].loglikelihoods[0] / np.log(2) / text.num_bytes == intact


def test_what_is_selected_is_what_a_trace_of_the_same_texts_counts(tmp_path: Path) -> None:
    model = make("qwen3_moe")
    ids = rows(4).tolist()
    found = ablated(model, [(row, "a") for row in ids], tmp_path / "a", options(batch_size=21))
    traced = trace_texts(
        loaded(model),
        sites_of(loaded(model), name="m"),
        encoded([row[:-1] for row in ids], num_masked=0),
        TracingOptions(),
    )
    counts = np.array([np.concatenate([layer.selected for layer in text.layers]) for text in traced])
    assert (found.selected == counts).all()


def random_routes(seed: int, num_tokens: int = 60) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    index = np.stack([rng.permutation(NUM_EXPERTS)[:TOP_K] for _ in range(num_tokens)])
    weights = rng.random((num_tokens, TOP_K))
    return index, weights, rng.integers(3, 20, num_tokens)


def draws(index: Any, weights: Any, token_ids: Any, **more: Any) -> Any:
    given = {"experts": [1], "num_experts": NUM_EXPERTS, "layer": 0, "num_draws": NUM_DRAWS, "seed": 0, **more}
    return control_draws(index, weights, token_ids, **given)


def test_control_draws_are_matched_by_rank_and_take_other_experts() -> None:
    index, weights, token_ids = random_routes(1)
    found = draws(index, weights, token_ids)
    ranks = np.argsort(np.argsort(-weights, axis=1), axis=1)
    for mask in found.masks:
        assert not (mask & (index == 1)).any()
        assert mask.sum(axis=1).max() == 1
        for rank in range(TOP_K):
            own = ((index == 1) & (ranks == rank))[1:].sum()
            assert (mask & (ranks == rank))[1:].sum() == own
        assert mask[0].any() == (index[0] == 1).any()
    assert len({mask.tobytes() for mask in found.masks}) == NUM_DRAWS


def test_control_draws_follow_from_the_text_and_the_seed_alone() -> None:
    index, weights, token_ids = random_routes(2)
    first, again = draws(index, weights, token_ids), draws(index, weights, token_ids)
    assert (first.masks == again.masks).all()
    for change in ({"seed": 1}, {"experts": [2]}, {"layer": 1}):
        assert (draws(index, weights, token_ids, **change).masks != first.masks).any()


def test_control_draws_prefer_the_same_kinds_of_tokens_in_all_texts() -> None:
    """In two texts of the same tokens, with other experts, draws mostly take the same tokens."""
    first, second = (draws(*random_routes(seed)[:2], np.arange(3, 63), num_draws=200) for seed in (3, 4))
    chosen = [one.masks.any(axis=2) for one in (first, second)]
    shared = (chosen[0] & chosen[1]).sum() / chosen[0].sum()
    assert shared > 1.5 * chosen[1].mean()


def test_a_busy_expert_gets_as_many_selections_as_other_experts_have() -> None:
    index, weights, token_ids = random_routes(5)
    index[:, 0] = 1
    index[:, 1] = 2
    weights[:] = [0.7, 0.3]
    found = draws(index, weights, token_ids)
    assert found.num_removed == 60
    assert (found.num_matched == 1).all()  # the first token's second choice; no other expert is a first choice
