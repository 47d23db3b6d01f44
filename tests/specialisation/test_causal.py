"""Causal statistics: equal to SciPy's where it has them, and right about planted truths."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from moe_ray.errors import UserError
from moe_ray.specialisation.causal import (
    ExpertEffect,
    PairedChanges,
    accuracy_p,
    causal_effects,
    combined,
    mean_of,
    min_texts,
    no_headroom,
    rank_agreement,
    sign_flip_p,
)

NUM_EXPERTS, NUM_CLASSES, NUM_PER_CLASS, NUM_DRAWS = 4, 3, 40, 21
LABELS = np.repeat(np.arange(NUM_CLASSES), NUM_PER_CLASS)


def changes(rng: np.random.Generator, **more: Any) -> PairedChanges:
    """Removing any expert costs 0.5 nats, whichever it is; texts and draws differ."""
    num = len(LABELS)
    text = rng.normal(0, 0.3, (num, 1))
    draws = rng.normal(0, 0.05, (1, NUM_EXPERTS, NUM_DRAWS))
    removed = -0.5 + text + rng.normal(0, 0.05, (1, NUM_EXPERTS)) + rng.normal(0, 0.2, (num, NUM_EXPERTS))
    controls = -0.5 + text[:, :, None] + draws + rng.normal(0, 0.2, (num, NUM_EXPERTS, NUM_DRAWS))
    return PairedChanges(removed=removed, controls=controls, labels=LABELS, num_classes=NUM_CLASSES, **more)


def effects(given: PairedChanges, **more: Any) -> list[ExpertEffect]:
    return causal_effects(given, family="experts and classes", **more)


def discovered(found: list[ExpertEffect]) -> set[tuple[str, int, int]]:
    return {(one.kind, one.expert, one.label) for one in found if one.q_value is not None and one.q_value < 0.05}


def test_the_t_tests_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.2, 1, 30), rng.normal(0, 2, 50)
    one = mean_of(a)
    assert one.p_value() == pytest.approx(stats.ttest_1samp(a, 0).pvalue)
    expected = stats.ttest_1samp(a, 0).confidence_interval()
    assert one.interval() == pytest.approx((expected.low, expected.high))
    welch = combined([mean_of(a), mean_of(b)], [1, -1])
    assert welch.p_value() == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_equivalence_is_two_one_sided_tests() -> None:
    values = np.random.default_rng(2).normal(0.05, 1, 200)
    below = stats.ttest_1samp(values, 0.3, alternative="less").pvalue
    above = stats.ttest_1samp(values, -0.3, alternative="greater").pvalue
    assert mean_of(values).equivalence_p(0.3) == pytest.approx(max(below, above))


@pytest.mark.parametrize("num", [9, 60])
def test_the_sign_flip_test_is_that_of_scipy(num: int) -> None:
    values = np.random.default_rng(num).normal(0.3, 1, num)
    theirs = stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=9999, vectorized=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert sign_flip_p(values) == pytest.approx(theirs.pvalue, abs=1e-12 if num == 9 else 0.01)


def test_the_detectable_effect_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    size = mean_of(rng.normal(0, 1, 100)).detectable()
    found = [mean_of(rng.normal(size, 1, 100)).p_value() < 0.05 for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.12)


def test_adjusted_p_values_are_those_of_scipy_over_the_named_family() -> None:
    found = effects(changes(np.random.default_rng(4)))
    tested = [one for one in found if one.p_value is not None]
    assert len(tested) == 2 * NUM_EXPERTS * NUM_CLASSES
    assert {one.family for one in tested} == {"experts and classes (24 tests)"}
    expected = stats.false_discovery_control([one.p_value for one in tested])
    assert [one.q_value for one in tested] == pytest.approx(list(expected))
    assert all(one.p_value is None for one in found if one.kind == "total")


def test_removing_one_of_identical_experts_costs_something_but_nothing_specific() -> None:
    rejecting = 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        given = changes(rng)
        # The removal of an expert that is like all others is one more draw.
        same = PairedChanges(
            removed=given.controls[:, :, 0], controls=given.controls[:, :, 1:], labels=LABELS, num_classes=NUM_CLASSES
        )
        found = effects(same)
        assert all(one.high < 0 for one in found if one.kind == "total")
        rejecting += bool(discovered(found))
    assert rejecting <= 3


def test_an_expert_that_one_class_needs_is_found_in_every_seed() -> None:
    proportions = []
    for seed in range(20):
        rng = np.random.default_rng(200 + seed)
        given = changes(rng)
        needed = given.removed.copy()
        needed[LABELS == 1, 2] -= 1.0
        found = discovered(
            effects(PairedChanges(removed=needed, controls=given.controls, labels=LABELS, num_classes=NUM_CLASSES))
        )
        # Selective effects of the other classes on this expert are true too: they lose less than class 1.
        true = {("specific", 2, 1), *(("selective", 2, label) for label in range(NUM_CLASSES))}
        assert {("specific", 2, 1), ("selective", 2, 1)} <= found
        proportions.append(len(found - true) / len(found))
    assert np.mean(proportions) <= 0.05


def test_a_class_of_two_texts_is_in_the_table_and_out_of_the_tests() -> None:
    given = changes(np.random.default_rng(5))
    kept = (LABELS != 2) | (np.arange(len(LABELS)) >= len(LABELS) - 2)
    found = effects(
        PairedChanges(
            removed=given.removed[kept], controls=given.controls[kept], labels=LABELS[kept], num_classes=NUM_CLASSES
        )
    )
    small = [one for one in found if one.label == 2]
    assert {one.num_texts for one in small} == {2}
    assert all(one.p_value is None and one.q_value is None for one in small)
    assert all(one.p_value is not None for one in found if one.label != 2 and one.kind != "total")


def test_the_number_of_texts_that_a_class_needs_follows_from_the_number_of_tests() -> None:
    assert [min_texts(num) for num in (24, 120, 480, 1440)] == [10, 13, 15, 16]


def test_a_model_at_chance_has_no_headroom() -> None:
    rng = np.random.default_rng(6)
    right = np.where(LABELS == 0, rng.random(len(LABELS)) < 0.95, rng.random(len(LABELS)) < 0.33)
    given = changes(rng, right=right, chance=1 / 3)
    assert no_headroom(given).tolist() == [False, True, True]
    assert {(one.label, one.no_headroom) for one in effects(given)} == {(0, False), (1, True), (2, True)}


def test_busy_but_useless_and_rare_but_vital_experts_turn_the_order_around() -> None:
    rng = np.random.default_rng(7)
    used = np.array([0.7, 0.2, 0.09, 0.01])
    losses = np.array([0.0, -0.1, -0.2, -2.0]) + rng.normal(0, 0.3, (200, 4))
    agreement = rank_agreement(used, losses)
    assert agreement.correlation == pytest.approx(-1)
    assert agreement.high < 0
    assert rank_agreement(-losses.mean(axis=0), losses).correlation == pytest.approx(1)


def test_accuracy_is_tested_by_mcnemar() -> None:
    before = np.array([True] * 20 + [False] * 10)
    after = np.array([True] * 10 + [False] * 10 + [True] * 1 + [False] * 9)
    assert accuracy_p(before, after) == pytest.approx(stats.binomtest(10, 11, 0.5).pvalue)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": LABELS[:-1]}, "119 labels"),
        ({"labels": LABELS + 1}, "labels from 1 to 3 for 3 classes"),
        ({"controls": np.zeros((len(LABELS), NUM_EXPERTS, 19))}, "19 control draws"),
        ({"removed": np.full((len(LABELS), NUM_EXPERTS), np.nan)}, "not finite"),
    ],
)
def test_arrays_that_cannot_be_tested_are_refused(change: dict[str, Any], message: str) -> None:
    given = changes(np.random.default_rng(8))
    fields = {"removed": given.removed, "controls": given.controls, "labels": LABELS, "num_classes": NUM_CLASSES}
    with pytest.raises(UserError, match=message):
        effects(PairedChanges(**{**fields, **change}))


def test_an_empty_class_and_a_class_of_one_text_have_no_intervals_and_no_tests() -> None:
    given = changes(np.random.default_rng(9))
    kept = (LABELS == 0) | (np.arange(len(LABELS)) == len(LABELS) - 1)
    found = effects(
        PairedChanges(
            removed=given.removed[kept], controls=given.controls[kept], labels=LABELS[kept], num_classes=NUM_CLASSES
        ),
        margin=0.1,
    )
    for one in found:
        if one.label == 1:
            assert one.num_texts == 0
            assert np.isnan(one.value)
        if one.label != 0:
            assert one.p_value is None
            assert one.equivalence_p is None
            assert np.isnan(one.low)
    assert all(one.p_value is not None for one in found if one.label == 0 and one.kind == "specific")
    assert not any(one.kind == "selective" for one in found if one.label == 0)  # there is no other class to compare


def test_a_class_of_one_text_does_not_spoil_the_contrasts_of_the_others() -> None:
    given = changes(np.random.default_rng(11))
    kept = (LABELS != 2) | (np.arange(len(LABELS)) == len(LABELS) - 1)
    found = effects(
        PairedChanges(
            removed=given.removed[kept], controls=given.controls[kept], labels=LABELS[kept], num_classes=NUM_CLASSES
        )
    )
    selective = [one for one in found if one.kind == "selective" and one.label != 2]
    assert len(selective) == 2 * NUM_EXPERTS
    assert all(one.p_value is not None for one in selective)


def test_an_equivalence_test_says_that_there_is_no_effect_and_never_without_a_margin() -> None:
    rng = np.random.default_rng(10)
    given = changes(rng)
    same = PairedChanges(
        removed=given.controls[:, :, 0], controls=given.controls[:, :, 1:], labels=LABELS, num_classes=NUM_CLASSES
    )
    specific = [one for one in effects(same, margin=0.5) if one.kind == "specific"]
    assert all(one.equivalence_p is not None and one.equivalence_p < 0.01 for one in specific)
    assert all(one.equivalence_p is None for one in effects(same))
    assert all(0 < one.detectable < 1 for one in specific)
