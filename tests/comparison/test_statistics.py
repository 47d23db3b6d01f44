"""Aggregates and intervals, held against other people's definitions and against simulation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest, bootstrap, chi2
from sklearn.metrics import f1_score

from moe_ray.comparison.resampling import MAX_UNITS, NUM_RESAMPLES, percentile_interval, resampled_sums, wilson_interval
from moe_ray.comparison.statistics import Aggregate, aggregate
from moe_ray.scoring.score import Metric
from tests.comparison.columns import BINARY, MACRO_F1, MEAN, column_of, label_column

LABELS = ("maybe", "no", "yes")
PUBMEDQA = Path(__file__).parents[2] / ".." / "shared" / "data" / "biomedical" / "pubmedqa_dev500.json"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_majority_class_of_the_published_test_set_has_the_published_figures() -> None:
    golds = ["yes"] * 276 + ["no"] * 169 + ["maybe"] * 55
    column = label_column(golds, ["yes"] * 500)
    accuracy, macro_f1 = aggregate(column, BINARY).value, aggregate(column, MACRO_F1, LABELS).value
    assert accuracy is not None
    assert macro_f1 is not None
    assert round(100 * accuracy, 1) == 55.2
    assert round(100 * macro_f1, 1) == 23.7


@pytest.mark.skipif(not PUBMEDQA.is_file(), reason="the real data set is not beside the checkout")
def test_the_majority_class_of_the_real_development_set_agrees_with_scikit_learn() -> None:
    golds = [item["final_decision"] for item in json.loads(PUBMEDQA.read_text()).values()]
    found = aggregate(label_column(golds, ["yes"] * len(golds)), MACRO_F1, LABELS).value
    expected = f1_score(golds, ["yes"] * len(golds), labels=LABELS, average="macro", zero_division=0)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_scikit_learns_also_with_labels_outside_of_the_gold_ones(seed: int) -> None:
    random = rng(seed)
    golds = random.choice(LABELS, 60, p=[0.1, 0.3, 0.6]).tolist() + list(LABELS)
    labels = random.choice([*LABELS, "unparsed"], len(golds)).tolist()
    found = aggregate(label_column(golds, labels), MACRO_F1, LABELS).value
    expected = f1_score(golds, labels, labels=LABELS, average="macro", zero_division=0)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("num_right", "num_scored"), [(0, 10), (10, 10), (3, 7), (4, 8), (4, 60), (276, 500)])
def test_wilson_intervals_away_from_the_ends_are_scipys(num_right: int, num_scored: int) -> None:
    expected = binomtest(num_right, num_scored).proportion_ci(0.95, method="wilson")
    found = wilson_interval(num_right, num_scored)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("num_right", "num_scored"), [(1, 1), (1, 10), (2, 50), (3, 51), (3, 4000)])
def test_the_bound_of_few_right_answers_is_that_of_a_poisson_count(num_right: int, num_scored: int) -> None:
    """Brown, Cai and DasGupta (2001), section 4.1.1: half the 5 % point of chi-square with 2 x degrees of freedom."""
    expected = chi2.ppf(0.05, 2 * num_right) / 2 / num_scored
    assert wilson_interval(num_right, num_scored).low == pytest.approx(expected, abs=1e-12)
    assert wilson_interval(num_scored - num_right, num_scored).high == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize("num_examples", [1, 2, 5, 10, 20, 50, 200])
def test_the_mended_wilson_interval_covers_every_share_in_nine_of_ten_samples(num_examples: int) -> None:
    """Exactly, by summing the binomial; Wilson's own falls to 0.79 to 0.86 for the same numbers of examples."""
    shares = np.linspace(0.001, 0.999, 999)[:, None]
    intervals = [wilson_interval(count, num_examples) for count in range(num_examples + 1)]
    lows, highs = np.array([interval.low for interval in intervals]), np.array([each.high for each in intervals])
    chances = binom.pmf(np.arange(num_examples + 1), num_examples, shares)
    coverage = (chances * ((lows <= shares) & (shares <= highs))).sum(axis=1)
    assert coverage.min() >= 0.915
    assert coverage.mean() >= 0.95


@pytest.mark.parametrize("num_examples", [20, 500, 5000, 60_000])
def test_the_bootstraps_standard_error_is_the_closed_form_of_a_mean(num_examples: int) -> None:
    """Also where blocks of examples are resampled, and where the order of the examples goes with their values."""
    values = np.sort(rng().normal(size=num_examples))
    replicates = resampled_sums(values[:, None])[:, 0] / num_examples
    expected = values.std() / math.sqrt(num_examples)
    num_blocks = MAX_UNITS if num_examples > MAX_UNITS else math.inf
    assert len(replicates) == NUM_RESAMPLES
    noise = math.sqrt(1 / (2 * NUM_RESAMPLES) + 1 / (2 * num_blocks))
    assert replicates.std() == pytest.approx(expected, rel=4 * noise)
    assert replicates.mean() == pytest.approx(values.mean(), abs=4 * expected / math.sqrt(NUM_RESAMPLES))


def test_a_weighted_mean_is_the_ratio_of_sums() -> None:
    """Bits per byte: 12 bits over 6 bytes, and 3 over 1, are 15 over 7."""
    found = aggregate(column_of([2.0, 3.0, None], weights=[6.0, 1.0, 100.0]), MEAN)
    assert found.value == pytest.approx(15 / 7)
    assert (found.num_scored, found.num_unscored) == (2, 1)


@pytest.mark.parametrize("metric", [MEAN, BINARY, MACRO_F1])
@pytest.mark.parametrize("num_examples", [1, 5])
def test_no_scores_give_no_value_and_not_zero(metric: Metric, num_examples: int) -> None:
    found = aggregate(column_of([None] * num_examples), metric, LABELS)
    assert found.value is None
    assert found.interval == (None, None, None)
    assert (found.num_scored, found.num_unscored) == (0, num_examples)


def test_one_example_has_a_value_and_no_bootstrap_interval() -> None:
    found = aggregate(column_of([0.4]), MEAN)
    assert found.value == 0.4
    assert found.interval == (None, None, None)


def test_equal_values_have_no_interval_of_no_width() -> None:
    found = aggregate(column_of([0.4] * 30), MEAN)
    assert found.value == pytest.approx(0.4)
    assert found.interval == (None, None, None)


def test_a_score_that_is_no_number_is_unscored() -> None:
    found = aggregate(column_of([math.nan, math.inf, 1.0]), MEAN)
    assert (found.value, found.num_scored, found.num_unscored) == (1.0, 1, 2)


def test_right_and_wrong_with_unequal_weights_is_left_to_the_bootstrap() -> None:
    found = aggregate(column_of([0.0, 1.0, 1.0, 0.0], weights=[1.0, 2.0, 3.0, 4.0]), BINARY)
    assert found.interval.method == "bootstrap"


def test_the_bootstrap_of_skewed_values_is_scipys_bca_and_no_plain_percentile() -> None:
    values = np.where(rng(1).random(100) < 0.9, 0.0, rng(51).beta(2, 5, 100))
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", random_state=rng(6)).confidence_interval
    found = aggregate(column_of(values.tolist()), MEAN).interval
    standard_error = values.std() / 10
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.15 * standard_error)
    plain = percentile_interval(resampled_sums(values[:, None])[:, 0] / 100, 100)
    assert plain.high is not None
    assert plain.high < expected.high - 0.4 * standard_error


def covers(found: Aggregate, truth: float) -> bool:
    low, high, _ = found.interval
    return low is not None and high is not None and low <= truth <= high


@pytest.mark.parametrize(("num_examples", "lowest"), [(10, 0.90), (40, 0.92), (200, 0.93)])
def test_intervals_of_means_cover_the_truth(num_examples: int, lowest: float) -> None:
    """ROUGE-like values: Beta(2, 5). 400 trials have a standard error of 0.011 at 0.95."""
    random = rng(1)
    trials = [aggregate(column_of(random.beta(2, 5, num_examples).tolist()), MEAN) for _ in range(400)]
    assert lowest <= np.mean([covers(trial, 2 / 7) for trial in trials]) <= 0.985


def test_intervals_of_means_with_very_unequal_weights_cover_the_truth() -> None:
    """Weights that are log-normal: of 20 examples, about 7 count. 400 trials have a standard error of 0.011 at 0.95."""
    random = rng(9)
    num_covered = 0
    for _ in range(400):
        values, weights = random.gamma(4, 0.25, 20), np.exp(random.normal(size=20))
        num_covered += covers(aggregate(column_of(values.tolist(), weights=weights.tolist()), MEAN), 1.0)
    assert 0.92 <= num_covered / 400 <= 0.985


@pytest.mark.parametrize(("num_examples", "share"), [(10, 0.3), (50, 0.8), (500, 0.76)])
def test_intervals_of_right_and_wrong_cover_the_truth(num_examples: int, share: float) -> None:
    random = rng(2)
    counts = random.binomial(num_examples, share, 2000)
    intervals = [wilson_interval(int(count), num_examples) for count in counts]
    covered = np.mean([low <= share <= high for low, high, _ in intervals if low is not None and high is not None])
    assert 0.92 <= covered <= 0.985


@pytest.mark.parametrize(("skill", "num_examples", "lowest"), [(0.75, 150, 0.92), (0.95, 50, 0.93), (0.99, 20, 0.93)])
def test_intervals_of_macro_f1_cover_the_truth(skill: float, num_examples: int, lowest: float) -> None:
    """The truth is macro-F1 of a sample so large that it has no noise of its own."""
    random = rng(3)

    def draw(size: int) -> tuple[list[str], list[str]]:
        golds = random.choice(LABELS, size, p=[0.11, 0.34, 0.55])
        right = random.random(size) < skill
        return golds.tolist(), np.where(right, golds, random.choice(LABELS, size)).tolist()

    truth = float(f1_score(*draw(200_000), labels=LABELS, average="macro"))
    trials = [aggregate(label_column(*draw(num_examples)), MACRO_F1, LABELS) for _ in range(300)]
    assert lowest <= np.mean([covers(trial, truth) for trial in trials])


def test_a_few_answers_that_are_all_right_leave_doubt_about_macro_f1() -> None:
    golds = ["yes"] * 6 + ["no"] * 4
    found = aggregate(label_column(golds, golds), MACRO_F1, ("no", "yes"))
    assert (found.value, found.interval.high) == (1.0, 1.0)
    assert found.interval.low is not None
    assert 0.5 < found.interval.low < 0.95
