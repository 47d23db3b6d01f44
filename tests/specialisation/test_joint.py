"""Experts that are removed together, and texts for choosing apart from texts for testing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.likelihood import score_batch
from moe_ray.errors import DataError, RunDirectoryError
from moe_ray.mixtures.intervening import intervened
from moe_ray.mixtures.interventions import Intervention
from moe_ray.specialisation.ablation.controls import control_draws
from moe_ray.specialisation.ablation.interaction import interactions
from moe_ray.specialisation.ablation.measuring import AblationMeter, AblationOptions, RemovedUnit
from moe_ray.specialisation.ablation.report import make_ablation_report
from moe_ray.specialisation.ablation.split import is_for_choosing, joint_sets, part_for_testing, strengths, strongest
from moe_ray.specialisation.ablation.tables import interaction_table
from tests.specialisation.families import TOP_K, loaded, make, rows
from tests.specialisation.planted_models import ablated, random_texts, scored, twins_mixtral

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_DRAWS = 20


def options(operation: Any = "reroute") -> AblationOptions:
    return AblationOptions(operation=operation, num_draws=NUM_DRAWS, batch_size=NUM_DRAWS + 1)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, tuple[int, int]]:
    """Single removals, the removal of the pair, and which experts are the twins."""
    model, pair = twins_mixtral(1)
    texts, out = random_texts(np.random.default_rng(1), 16), tmp_path_factory.mktemp("twins")
    singles = ablated(model, texts, out / "singles", options())
    return singles, ablated(model, texts, out / "joint", options(), together=[pair, (4, 5)]), pair


def test_twins_cost_nothing_alone_and_much_together(twins: tuple[Any, Any, tuple[int, int]]) -> None:
    singles, joint, pair = twins
    alone = [one for one in make_ablation_report(singles).effects if one.expert in pair and one.kind == "specific"]
    assert len(alone) == 4
    assert all(abs(one.value or 0) < 0.05 for one in alone)
    report = make_ablation_report(joint, singles=singles)
    (cost,) = [one for one in report.effects if (one.expert, one.label, one.kind) == (pair[0], "a", "specific")]
    assert cost.with_experts == [pair[1]]
    assert (cost.value or 0) < -0.1
    assert (cost.q_value or 1) < 0.001
    (unit,) = [one for one in report.units if one.expert == pair[0]]
    assert unit.sentence.startswith("experts 0 and 1 together, layer 0: removing them costs a ")
    (beyond,) = [one for one in report.interactions if one.experts == list(pair) and one.label == "a"]
    assert (beyond.high or 0) < -0.1
    assert (beyond.q_value or 1) < 0.001
    others = [one for one in report.interactions if one.experts == [4, 5]]
    assert all(one.q_value is None or one.q_value > 0.05 or abs(one.value or 0) < 0.05 for one in others)
    assert interaction_table(report).row_count == 4


def test_what_experts_cost_beyond_their_sum_is_a_plain_difference_of_means(
    twins: tuple[Any, Any, tuple[int, int]],
) -> None:
    singles, joint, _ = twins
    found = interactions(joint, singles)
    for one in found:
        texts = [at for at, label in enumerate(joint.labels) if label == one.label]
        unit = [tuple(unit.experts) for unit in joint.plan.units].index(tuple(one.experts))
        sums = [joint.removed[at, unit] - sum(singles.removed[at, expert] for expert in one.experts) for at in texts]
        assert one.value == pytest.approx(np.mean(sums))
    with pytest.raises(RunDirectoryError, match="of other texts or experts"):
        interactions(replace(joint, text_ids=("other", *joint.text_ids[1:])), singles)


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "deepseek_v3", "jamba"])
@pytest.mark.parametrize("operation", ["reroute", "zero", "swap"])
def test_a_joint_change_is_that_of_reading_the_text_under_the_intervention(family: str, operation: str) -> None:
    model = make(family)
    sites = sites_of(loaded(model), name=family)
    text = scored(rows(1)[0].tolist(), "a", "t")
    unit = RemovedUnit(expert=1, at=0, with_experts=(4,))
    given = AblationOptions(operation=operation, num_draws=NUM_DRAWS)  # type: ignore[arg-type]
    measured = AblationMeter(loaded(model), sites, [unit], given, name=family).measure(text)
    with intervened(sites, Intervention.parse(f"{operation}:1,4@{sites[0].record.layer}"), name=family):
        slow = text.score(score_batch(loaded(model), list(text.rows))[0].loglikelihoods)
    assert measured.removed.tolist() == [slow - measured.intact]


def test_draws_for_a_pair_take_the_same_ranks_from_as_many_tokens() -> None:
    rng = np.random.default_rng(1)
    index = np.stack([rng.permutation(12)[:TOP_K] for _ in range(80)])
    weights, token_ids = rng.random((80, TOP_K)), rng.integers(3, 20, 80)
    found = control_draws(
        index, weights, token_ids, experts=[1, 4], num_experts=12, layer=0, num_draws=NUM_DRAWS, seed=0
    )
    ranks = np.argsort(np.argsort(-weights, axis=1), axis=1)

    def patterns(mask: Any) -> list[tuple[int, ...]]:
        rows_of = (tuple(sorted(own[taken])) for own, taken in zip(ranks[1:], mask[1:], strict=True))
        return sorted(row for row in rows_of if row)

    removed = np.isin(index, [1, 4])
    assert (0, 1) in patterns(removed)
    for mask in found.masks:
        assert not (mask & removed).any()
        assert patterns(mask) == patterns(removed)
        assert mask[0].sum() == min(removed[0].sum(), (~removed[0]).sum())


def test_the_halves_follow_from_the_ids_alone() -> None:
    names = [f"text {at}" for at in range(2000)]
    halves = [is_for_choosing(name) for name in names]
    assert halves == [is_for_choosing(name) for name in names]
    assert 900 < sum(halves) < 1100


def test_what_is_chosen_on_one_half_is_tested_on_the_other(twins: tuple[Any, Any, tuple[int, int]]) -> None:
    _, joint, _ = twins
    assert strongest(joint, 1) == [0]
    report = make_ablation_report(joint, choose=1)
    assert report.split is not None
    assert (report.split.num_choosing + report.split.num_testing, report.split.num_testing) == (32, report.num_texts)
    assert (report.split.num_chosen, report.split.num_units) == (1, 2)
    part, _ = part_for_testing(joint, [0])
    assert not any(map(is_for_choosing, part.text_ids))
    own = [one for one in report.effects if one.kind == "total" and one.label == "a"]
    kept = [at for at, name in enumerate(joint.text_ids) if not is_for_choosing(name) and joint.labels[at] == "a"]
    assert [one.value for one in own] == [pytest.approx(joint.removed[kept, 0].mean())]


def test_chosen_experts_look_too_strong_on_the_texts_that_chose_them(twins: tuple[Any, Any, tuple[int, int]]) -> None:
    """Changes that are noise alone: the strongest of six units has a loss where it is chosen, and none where tested."""
    singles, _, _ = twins
    chosen, tested = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        noise = replace(
            singles, removed=rng.normal(size=singles.removed.shape), controls=np.zeros_like(singles.controls)
        )
        (best,) = strongest(noise, 1)
        halves = np.array([is_for_choosing(name) for name in noise.text_ids])
        chosen.append(noise.removed[halves, best].mean())
        tested.append(noise.removed[~halves, best].mean())
        assert best == int(np.argmax(strengths(noise, halves)))
    assert np.mean(chosen) < -0.15
    assert abs(np.mean(tested)) < 0.06


def test_pairs_of_the_strongest_and_all_of_them_are_removed_together(twins: tuple[Any, Any, tuple[int, int]]) -> None:
    singles, _, _ = twins
    assert [experts for _, experts in joint_sets(singles, 2)] == [joint_sets(singles, 2)[0][1]]
    sets = [experts for _, experts in joint_sets(singles, 3)]
    assert len(sets) == 4
    assert sets[3] == tuple(sorted({expert for pair in sets[:3] for expert in pair}))


def test_texts_of_one_half_alone_cannot_be_split(twins: tuple[Any, Any, tuple[int, int]]) -> None:
    singles, _, _ = twins
    lonely = replace(singles, text_ids=tuple("same" for _ in singles.text_ids))
    with pytest.raises(DataError, match="texts for choosing and"):
        make_ablation_report(lonely, choose=1)
