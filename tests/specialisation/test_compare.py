"""Comparison of traces: permuted experts are found, strangers are not, and differences have honest intervals."""

import dataclasses
import itertools

import numpy as np
import pytest

from moe_ray.errors import UserError
from moe_ray.specialisation.compared.matching import match_experts, rotation_around_sum
from moe_ray.specialisation.compared.records import TraceComparison
from moe_ray.specialisation.compared.tables import comparison_lines, expert_table, is_real, rows_of
from moe_ray.specialisation.compared.traces import NamedTrace, compare_traces
from moe_ray.specialisation.pictures.canvas import svg_bytes
from moe_ray.specialisation.pictures.matches import match_picture
from tests.specialisation.planted_routers import (
    LABELS,
    NUM_EXPERTS,
    NUM_TEXTS,
    class_means,
    compared,
    features,
    num_rejected,
    random_router,
    routed,
    traced,
)


def pairs_of(found: TraceComparison) -> list[tuple[int, int]]:
    return [(one.expert_a, one.expert_b) for one in found.experts]


@pytest.mark.parametrize("is_shared", [True, False], ids=["same texts", "other texts"])
def test_permuted_experts_are_matched_exactly_in_20_seeds(is_shared: bool) -> None:
    """The same router with other numbers reads other tokens of the same texts, or other texts of the same classes."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        router, order, means = random_router(rng), rng.permutation(NUM_EXPERTS), 2 * class_means(rng)
        about = features(rng, means)
        other = about if is_shared else features(rng, means)
        a, b = routed(rng, about, router), routed(rng, other, router[:, order])
        found = compared(traced(a), traced(b, prefix="" if is_shared else "b"))
        assert found.matched_by == ("texts" if is_shared else "classes")
        assert found.is_paired is is_shared
        assert [order[b] for _, b in pairs_of(found)] == list(range(NUM_EXPERTS))
        assert found.layers[0].p_value < 0.05
        assert all(is_real(one) for one in found.experts) or not is_shared  # six classes say less than 72 texts


@pytest.mark.parametrize("follows", ["same features", "no features"])
def test_strangers_match_no_better_than_chance(follows: str) -> None:
    """Also where both follow what the same texts are about; tests/slow repeats it with 200 runs."""
    assert num_rejected(follows, 30) <= 30 * 0.05 + 3 * np.sqrt(30 * 0.05 * 0.95)


def test_a_chance_match_is_called_one_and_its_lifts_are_not_tested() -> None:
    rng = np.random.default_rng(3)
    about = features(rng, class_means(rng))
    found = compared(traced(routed(rng, about, random_router(rng))), traced(routed(rng, about, random_router(rng))))
    assert not any(is_real(one) for one in found.experts)
    assert all(one.p_value is None for one in found.differences if one.measure == "lift")
    assert "0 of 6 matched experts correspond" in next(iter(comparison_lines(found)))
    assert "No lift is compared: no match is better than chance." in list(comparison_lines(found))
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in expert_table(found, 9).columns}
    assert set(columns["match"]) == {"chance"}


def test_rotations_keep_the_sum_and_all_lengths() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 7):
        turned = rotation_around_sum(rng, size)
        assert np.allclose(turned @ turned.T, np.eye(size))
        assert np.allclose(turned @ np.ones(size), 1)


def test_the_match_is_the_best_of_all_permutations() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((4, 30)), rng.random((4, 30))
    correlations = np.corrcoef(a, b)[:4, 4:]
    best = max(itertools.permutations(range(4)), key=lambda order: correlations[range(4), order].sum())
    found = match_experts(a, b, purpose="test")
    assert tuple(found.b) == best
    assert np.allclose(found.similarity, correlations[range(4), best])


@pytest.mark.parametrize("num_b", [4, 9])
def test_unequal_numbers_of_experts_leave_some_without_a_partner(num_b: int) -> None:
    rng = np.random.default_rng(4)
    router, about = random_router(rng, max(NUM_EXPERTS, num_b)), features(rng, 2 * class_means(rng))
    found = compared(traced(routed(rng, about, router[:, :NUM_EXPERTS])), traced(routed(rng, about, router[:, :num_b])))
    (layer,) = found.layers
    assert len(found.experts) == min(NUM_EXPERTS, num_b)
    assert len(layer.unmatched_a) == max(0, NUM_EXPERTS - num_b)
    assert len(layer.unmatched_b) == max(0, num_b - NUM_EXPERTS)
    assert any("Without a partner in layer 0" in line for line in comparison_lines(found))


def test_an_expert_that_no_text_selects_is_matched_by_chance() -> None:
    rng = np.random.default_rng(5)
    counts = routed(rng, features(rng, class_means(rng)), random_router(rng))
    counts[:, 2] = 0
    found = compared(traced(counts), traced(counts))
    assert (2, 2) in pairs_of(found)
    assert [is_real(one) for one in found.experts] == [at != 2 for at in range(NUM_EXPERTS)]


def test_differences_of_a_trace_with_itself_are_zero_and_of_paired_texts_narrower() -> None:
    rng = np.random.default_rng(6)
    router, about = random_router(rng), features(rng, 2 * class_means(rng))
    a, b = routed(rng, about, router), routed(rng, about, router)
    same = compared(traced(a), traced(a))
    assert all(one.difference == 0 and one.low == 0 and one.high == 0 for one in same.differences)
    assert "both traces are of the same weights" in same.notes
    paired, apart = compared(traced(a), traced(b)), compared(traced(a), traced(b, prefix="b"))
    assert any("not paired" in note for note in apart.notes)
    widths = [
        np.array([(one.high or 0) - (one.low or 0) for one in found.differences if one.measure == "lift"])
        for found in (paired, apart)
    ]
    assert np.median(widths[0]) < 0.5 * np.median(widths[1])


def test_intervals_of_differences_cover_none_and_find_a_planted_one() -> None:
    covered, total = 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        router, means = random_router(rng), 2 * class_means(rng)
        about = features(rng, means)
        a, b = routed(rng, about, router), routed(rng, about, router)
        found = compared(traced(a), traced(b))
        lifts = [one for one in found.differences if one.measure == "lift"]
        covered += sum((one.low or 0) <= 0 <= (one.high or 0) for one in lifts)
        total += len(lifts)
    assert 0.91 <= covered / total <= 0.985
    b[:NUM_TEXTS, 1] *= 4  # class a uses expert 1 four times as often
    changed = next(one for one in rows_of(compared(traced(a), traced(b))))
    assert changed[1] is not None
    assert changed[1].label == "a"
    assert (changed[1].q_value or 0.0) < 0.01


def test_classes_that_are_not_in_both_are_named() -> None:
    rng = np.random.default_rng(7)
    counts = routed(rng, features(rng, class_means(rng)), random_router(rng))
    labels = [label if label != "f" else "rare" for label in LABELS for _ in range(NUM_TEXTS)]
    found = compared(traced(counts), traced(counts, prefix="b", labels=labels))
    assert list(found.classes) == list("abcde")
    assert any("classes of B that are not compared with A: rare" in note for note in found.notes)
    relabelled = compared(traced(counts), traced(counts, labels=labels))
    assert f"not shared, because their class differs: {NUM_TEXTS} texts" in relabelled.notes
    assert relabelled.num_shared == 5 * NUM_TEXTS


def test_what_cannot_be_compared_is_refused_in_words() -> None:
    rng = np.random.default_rng(8)
    counts = routed(rng, features(rng, class_means(rng)), random_router(rng))
    a = traced(counts)
    with pytest.raises(UserError, match="one trace"):
        compare_traces([NamedTrace(name="A", trace=a)])
    two_layers = dataclasses.replace(a, layers=(*a.layers, *a.layers))
    with pytest.raises(UserError, match="has 2 layers with experts, and A has 1") as caught:
        compared(a, two_layers)
    assert "--layers 0:0" in str(caught.value)
    named = [NamedTrace(name="A", trace=a), NamedTrace(name="B", trace=two_layers)]
    assert compare_traces(named, layers=[(0, 0)]).comparisons[0].layers[0].layer_b == 0
    with pytest.raises(UserError, match="has no layer 7"):
        compare_traces(named, layers=[(0, 7)])
    with pytest.raises(UserError, match="shares 0 texts and 0 classes"):
        compared(a, traced(counts, prefix="b", labels=["x"] * len(counts)))
    routes = dataclasses.replace(a, manifest=a.manifest.model_copy(update={"unit": "text"}))
    with pytest.raises(UserError, match="decides for each text, and A for each token"):
        compared(a, routes)


def test_three_traces_are_compared_with_the_first_and_drawn() -> None:
    rng = np.random.default_rng(9)
    router, about = random_router(rng), features(rng, 2 * class_means(rng))
    named = [NamedTrace(name=name, trace=traced(routed(rng, about, router))) for name in ("A", "B<b>", "C")]
    report = compare_traces(named)
    assert [(found.a, found.b) for found in report.comparisons] == [("A", "B<b>"), ("A", "C")]
    picture = match_picture(report.comparisons[0], 1)
    assert svg_bytes(picture) == svg_bytes(match_picture(report.comparisons[0], 1))
    assert "72 shared texts" in picture.caption
    assert report == compare_traces(named)
