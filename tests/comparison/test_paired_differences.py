"""Paired differences and their p-values, held against closed forms, scipy and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_rel

from moe_ray.comparison.resampling import count_rows, exact_sums, value_of_sums
from moe_ray.comparison.statistics import benjamini_hochberg, paired_difference
from tests.comparison.columns import BINARY, MACRO_F1, MEAN, column_of, label_column

LABELS = ("no", "yes")


def test_mcnemar_is_the_closed_form_over_the_discordant_pairs() -> None:
    """9 examples for one, 2 for the other: twice the binomial tail of 2 in 11."""
    a = [1.0] * 9 + [0.0] * 2 + [1.0] * 20 + [0.0] * 5
    b = [0.0] * 9 + [1.0] * 2 + [1.0] * 20 + [0.0] * 5
    found = paired_difference(column_of(a), column_of(b), BINARY)
    expected = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert found.test == "mcnemar_exact"
    assert found.p_value == pytest.approx(expected, abs=1e-12)
    assert found.difference == pytest.approx(7 / 36)


def test_the_interval_of_right_and_wrong_is_the_normal_one_with_a_pair_added_to_each_disagreement() -> None:
    """Bonett and Price (2012): 9 + 1 and 2 + 1 of 36 + 2."""
    a = [1.0] * 9 + [0.0] * 2 + [1.0] * 20 + [0.0] * 5
    b = [0.0] * 9 + [1.0] * 2 + [1.0] * 20 + [0.0] * 5
    low, high, _ = paired_difference(column_of(a), column_of(b), BINARY).interval
    half = 1.959964 * math.sqrt((13 / 38 - (7 / 38) ** 2) / 38)
    assert (low, high) == pytest.approx((7 / 38 - half, 7 / 38 + half), abs=1e-6)


@pytest.mark.parametrize("num_examples", [1, 8])
def test_systems_that_never_disagree_still_leave_doubt_about_their_difference(num_examples: int) -> None:
    right = [1.0] * num_examples
    column = label_column(["yes"] * num_examples, ["yes"] * num_examples)
    for found in (
        paired_difference(column_of(right), column_of(right), BINARY),
        paired_difference(column, column, MACRO_F1, LABELS),
    ):
        low, high, _ = found.interval
        assert low is not None
        assert high is not None
        assert -1 <= low < -0.1
        assert 0.1 < high <= 1


@pytest.mark.parametrize(("skill", "num_examples"), [(0.6, 20), (0.95, 20), (0.8, 100)])
def test_intervals_of_macro_f1_differences_cover_no_difference(skill: float, num_examples: int) -> None:
    random = np.random.default_rng(8)
    num_covered = 0
    for _ in range(200):
        golds = random.choice(LABELS, num_examples, p=[0.3, 0.7])
        answers = [
            np.where(random.random(num_examples) < skill, golds, random.choice(LABELS, num_examples)) for _ in "ab"
        ]
        a, b = (label_column(golds.tolist(), labels.tolist()) for labels in answers)
        low, high, _ = paired_difference(a, b, MACRO_F1, LABELS).interval
        num_covered += low is not None and high is not None and low <= 0 <= high
    assert num_covered >= 200 * 0.915


def test_right_and_wrong_with_unequal_weights_is_left_to_permutations() -> None:
    a, b = column_of([0.0, 1.0, 1.0], weights=[1.0, 2.0, 3.0]), column_of([1.0, 0.0, 0.0], weights=[1.0, 2.0, 3.0])
    assert paired_difference(a, b, BINARY).test == "paired_permutation"


def test_the_permutation_p_is_that_of_all_sign_flips() -> None:
    a, b = [0.9, 0.7, 0.8, 0.6, 0.5, 0.9, 0.4, 0.7], [0.5, 0.6, 0.75, 0.65, 0.3, 0.4, 0.35, 0.5]
    differences = np.array(a) - np.array(b)
    flips = np.array(list(itertools.product((-1, 1), repeat=len(a))))
    exact = float((np.abs(flips @ differences) >= abs(differences.sum()) - 1e-12).mean())
    found = paired_difference(column_of(a), column_of(b), MEAN)
    assert found.test == "paired_permutation"
    assert found.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact / 9999))


def test_the_permutation_p_of_macro_f1_is_that_of_all_exchanges() -> None:
    golds = ["yes", "yes", "yes", "no", "no", "no", "yes", "no", "yes"]
    labels_a = ["yes", "yes", "yes", "no", "no", "yes", "yes", "no", "yes"]
    labels_b = ["no", "yes", "no", "no", "yes", "yes", "yes", "yes", "no"]
    a, b = label_column(golds, labels_a), label_column(golds, labels_b)
    rows_a, rows_b = count_rows(a, MACRO_F1, LABELS), count_rows(b, MACRO_F1, LABELS)
    found = paired_difference(a, b, MACRO_F1, LABELS)
    assert found.difference is not None
    num_extreme = 0
    for swap in itertools.product((False, True), repeat=len(golds)):
        mask = np.array(swap)[:, None]
        first = value_of_sums(exact_sums(np.where(mask, rows_b, rows_a)), MACRO_F1)
        second = value_of_sums(exact_sums(np.where(mask, rows_a, rows_b)), MACRO_F1)
        assert first is not None
        assert second is not None
        num_extreme += abs(first - second) >= abs(found.difference) - 1e-12
    exact = num_extreme / 2 ** len(golds)
    assert found.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact / 9999))


def test_the_permutation_p_is_near_the_paired_t_tests_for_normal_values() -> None:
    random = np.random.default_rng(5)
    a = random.normal(0.1, 1, 300)
    b = a * 0.5 + random.normal(0, 1, 300)
    found = paired_difference(column_of(a.tolist()), column_of(b.tolist()), MEAN)
    expected = float(ttest_rel(a, b).pvalue)
    assert found.p_value == pytest.approx(expected, abs=0.02)
    standard_error = float((a - b).std(ddof=1)) / math.sqrt(300)
    assert found.interval.low == pytest.approx(
        float((a - b).mean()) - 1.968 * standard_error, abs=0.15 * standard_error
    )
    assert found.interval.high == pytest.approx(
        float((a - b).mean()) + 1.968 * standard_error, abs=0.15 * standard_error
    )


@pytest.mark.parametrize("seed", range(5))
def test_benjamini_hochberg_is_scipys(seed: int) -> None:
    p_values = np.random.default_rng(seed).random(12) ** 2
    assert benjamini_hochberg(p_values.tolist()) == pytest.approx(false_discovery_control(p_values).tolist())


def test_benjamini_hochberg_leaves_out_what_was_not_tested() -> None:
    assert benjamini_hochberg([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert benjamini_hochberg([]) == []


def test_examples_that_only_one_system_has_a_score_for_are_dropped_and_counted() -> None:
    found = paired_difference(column_of([1.0, None, 0.5, 0.2]), column_of([0.5, 0.5, None, 0.1]), MEAN)
    assert (found.num_pairs, found.num_dropped) == (2, 2)
    assert found.difference == pytest.approx(0.3)


def test_without_pairs_there_is_no_difference_and_no_p() -> None:
    found = paired_difference(column_of([1.0, None]), column_of([None, 1.0]), BINARY)
    assert (found.difference, found.p_value, found.test, found.num_pairs) == (None, None, None, 0)


def test_a_system_against_itself_differs_in_nothing() -> None:
    column = column_of([0.1, 0.5, 0.9])
    found = paired_difference(column, column, MEAN)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_exchanging_the_systems_turns_the_sign_and_nothing_else() -> None:
    random = np.random.default_rng(6)
    a, b = column_of(random.random(40).tolist()), column_of(random.random(40).tolist())
    there, back = paired_difference(a, b, MEAN), paired_difference(b, a, MEAN)
    assert there.difference is not None
    assert back.difference == -there.difference
    assert back.p_value == pytest.approx(there.p_value, abs=0.02)


@pytest.mark.parametrize("binary", [True, False])
def test_equal_systems_are_called_different_in_at_most_five_of_a_hundred_runs(binary: bool) -> None:
    random = np.random.default_rng(7)
    p_values = []
    for _ in range(300):
        ease = random.random(40)
        a, b = ((random.random(40) < ease).astype(float) if binary else ease + random.random(40) for _ in range(2))
        found = paired_difference(column_of(a.tolist()), column_of(b.tolist()), BINARY if binary else MEAN)
        assert found.p_value is not None
        p_values.append(found.p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
