"""Temperature, likelihood and calibration error against closed forms, SciPy and scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import log_loss

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.gating.calibration import (
    CONFIDENCE_POWER,
    MAX_TEMPERATURE,
    MIN_GAIN_NATS,
    MIN_MISTAKES,
    NUM_BINS,
    Temperatures,
    calibration,
    fit_temperature,
    fit_temperatures,
    log_sum_exp,
    negative_log_likelihood,
    reliability_bins,
    softmax,
)


def drawn(num: int, num_labels: int, seed: int) -> tuple[FloatArray, IntArray]:
    """Logits that are exactly right: labels drawn with the probabilities that they tell."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(num, num_labels))
    return logits, labels_of(softmax(logits), rng)


def labels_of(probabilities: FloatArray, rng: np.random.Generator) -> IntArray:
    """A label of each text, drawn with these probabilities."""
    cumulative = probabilities[:, :-1].cumsum(axis=1)
    return np.asarray((rng.random((len(cumulative), 1)) > cumulative).sum(axis=1))


def saturated(num: int, temperatures: Temperatures, seed: int) -> tuple[FloatArray, IntArray]:
    """Logits whose margins end at 6, as a fine-tuned encoder's do; right where divided by `temperatures`."""
    rng = np.random.default_rng(seed)
    logits = np.zeros((num, 4))
    logits[np.arange(num), rng.integers(0, 4, num)] = 6 * np.sqrt(rng.random(num))
    return logits, labels_of(two_by_hand(logits, temperatures), rng)


def two_by_hand(logits: FloatArray, temperatures: Temperatures) -> FloatArray:
    """Probabilities text by text, by the definition."""
    assert temperatures.confident is not None
    rows = []
    for row in logits:
        confidence = scipy_softmax(row).max() ** CONFIDENCE_POWER
        rows.append(
            scipy_softmax(row * (confidence / temperatures.confident + (1 - confidence) / temperatures.uncertain))
        )
    return np.array(rows)


def doubting_loss(logits: FloatArray, gold: IntArray, inverse_temperature: float | FloatArray) -> float:
    """Mean negative log-likelihood where each text is worth n/(n+1), and one even doubt 1/(n+1)."""
    num, num_labels = logits.shape
    wanted = np.full((num, num_labels), 1 / num_labels / (num + 1))
    wanted[np.arange(num), gold] += num / (num + 1)
    return float(-(wanted * log_softmax(logits * inverse_temperature, axis=1)).sum(axis=1).mean())


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_probabilities_and_their_logarithms_are_scipys_for_logits_of_any_size(scale: float) -> None:
    logits = np.random.default_rng(0).normal(scale=scale, size=(50, 4))
    assert softmax(logits) == pytest.approx(scipy_softmax(logits, axis=1), abs=1e-15)
    assert softmax(logits, 2.5) == pytest.approx(scipy_softmax(logits / 2.5, axis=1), abs=1e-15)
    assert log_sum_exp(logits) == pytest.approx(logsumexp(logits, axis=1), rel=1e-14)


@pytest.mark.parametrize("overconfidence", [0.25, 1.0, 3.0, 10.0])
def test_a_known_overconfidence_is_found_and_undone(overconfidence: float) -> None:
    logits, gold = drawn(20_000, 4, seed=1)
    temperature = fit_temperature(logits * overconfidence, gold)
    assert temperature == pytest.approx(overconfidence, rel=0.05)
    assert calibration(softmax(logits * overconfidence, temperature), gold).ece < 0.02
    if overconfidence == 3.0:
        assert calibration(softmax(logits * overconfidence), gold).ece > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_is_where_scipy_finds_the_least_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, gold = rng.normal(scale=4, size=(60, 3)), rng.integers(0, 3, 60)
    logits[np.arange(60), gold] += 3
    found = minimize_scalar(
        lambda beta: doubting_loss(logits, gold, beta), bounds=(0.01, 100), options={"xatol": 1e-10}
    )
    assert 1 / fit_temperature(logits, gold) == pytest.approx(found.x, rel=1e-5)


@pytest.mark.parametrize(("num", "num_labels"), [(1, 2), (10, 3), (500, 4)])
def test_a_router_without_mistakes_may_be_as_sure_as_one_doubt_among_its_texts_allows(
    num: int, num_labels: int
) -> None:
    logits, gold = np.zeros((num, num_labels)), np.zeros(num, dtype=np.intp)
    logits[:, 0] = 1.7
    assert fit_temperatures(logits, gold) == Temperatures(fit_temperature(logits, gold))
    confidence = softmax(logits, fit_temperature(logits, gold))[:, 0]
    assert confidence == pytest.approx((num + 1 / num_labels) / (num + 1), abs=1e-9)


def test_a_router_worse_than_chance_gets_the_highest_temperature_and_equal_logits_leave_it_at_one() -> None:
    logits, gold = np.array([[5.0, 0.0], [5.0, 0.0]]), np.array([1, 1])
    assert fit_temperature(logits, gold) == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperatures(logits, gold).uncertain == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperature(np.full((3, 4), 2.0), np.array([0, 1, 2])) == 1.0
    assert fit_temperatures(np.full((3, 4), 2.0), np.array([0, 1, 2])) == Temperatures(1.0)


def test_two_temperatures_are_found_again_and_make_both_ends_believable() -> None:
    true = Temperatures(uncertain=1.6, confident=0.8)
    logits, gold = saturated(20_000, true, seed=4)
    found = fit_temperatures(logits, gold)
    assert found == pytest.approx(true, rel=0.05)
    assert found.probabilities(logits) == pytest.approx(two_by_hand(logits, found), abs=1e-12)
    assert calibration(found.probabilities(logits), gold).ece < 0.01
    assert calibration(softmax(logits, fit_temperature(logits, gold)), gold).ece > 0.03


@pytest.mark.parametrize("seed", range(4))
def test_two_temperatures_are_where_scipy_finds_the_least_loss_of_both_at_once(seed: int) -> None:
    logits, gold = saturated(900, Temperatures(uncertain=2.0, confident=0.7), seed)
    confidence = scipy_softmax(logits, axis=1).max(axis=1, keepdims=True) ** CONFIDENCE_POWER

    def loss(betas: FloatArray) -> float:
        return doubting_loss(logits, gold, confidence * betas[1] + (1 - confidence) * betas[0])

    best = minimize(loss, [1.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13})
    found = fit_temperatures(logits, gold)
    assert found == pytest.approx(tuple(1 / best.x), rel=2e-3)
    one = fit_temperature(logits, gold)
    assert 901 * (doubting_loss(logits, gold, 1 / one) - best.fun) > MIN_GAIN_NATS


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("overconfidence", [0.3, 1.0, 2.0])
def test_where_one_temperature_is_the_truth_there_is_no_second(overconfidence: float, seed: int) -> None:
    logits, gold = drawn(900, 4, seed)
    logits *= overconfidence
    assert fit_temperatures(logits, gold) == Temperatures(fit_temperature(logits, gold))


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1e4])
def test_no_verdict_changes_at_any_two_temperatures(scale: float) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(scale=scale, size=(300, 4))
    for confident in (0.01, 0.5, 1.0, 100.0):
        scaled = Temperatures(uncertain=min(100 * confident, MAX_TEMPERATURE), confident=confident).scaled(logits)
        assert scaled.argmax(axis=1).tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("power", [0.1, 0.5, 1.0, 3.0])
def test_a_router_without_mistakes_is_not_made_surer_by_a_second_temperature(power: float, seed: int) -> None:
    logits, gold = np.zeros((200, 3)), np.zeros(200, dtype=np.intp)
    logits[:, 0] = 8 * np.random.default_rng(seed).random(200) ** power
    assert fit_temperatures(logits, gold) == Temperatures(fit_temperature(logits, gold))


def test_a_second_temperature_waits_for_enough_mistakes() -> None:
    logits, gold = np.zeros((400, 3)), np.zeros(400, dtype=np.intp)
    logits[:, 0] = 8.0
    logits[:40, 0] = 4.0
    few, enough = gold.copy(), gold.copy()
    few[: MIN_MISTAKES - 1] = 1
    enough[:MIN_MISTAKES] = 1
    assert fit_temperatures(logits, few) == Temperatures(fit_temperature(logits, few))
    found = fit_temperatures(logits, enough)
    assert found.confident is not None
    assert found.uncertain > found.confident


def test_the_likelihood_is_scikit_learns_log_loss() -> None:
    logits, gold = drawn(300, 3, seed=2)
    assert negative_log_likelihood(softmax(logits), gold) == pytest.approx(log_loss(gold, softmax(logits)), rel=1e-12)


def test_a_true_label_of_probability_zero_leaves_the_likelihood_finite() -> None:
    assert negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(708.396, abs=1e-3)


def test_the_calibration_error_is_that_of_a_plain_loop_over_fifteen_bins() -> None:
    rng = np.random.default_rng(3)
    probabilities = softmax(rng.normal(scale=2, size=(400, 3)))
    probabilities[0] = [1.0, 0.0, 0.0]  # the last bin holds its upper end
    gold = rng.integers(0, 3, 400)
    error = 0.0
    for at in range(NUM_BINS):
        rows = [row for row in range(400) if min(int(probabilities[row].max() * 15), 14) == at]
        if rows:
            sure = sum(probabilities[row].max() for row in rows) / len(rows)
            right = sum(int(probabilities[row].argmax() == gold[row]) for row in rows) / len(rows)
            error += len(rows) / 400 * abs(sure - right)
    found = calibration(probabilities, gold)
    assert found.ece == pytest.approx(error, abs=1e-12)
    assert sum(item.n for item in found.bins) == 400


def test_a_router_that_is_sure_and_wrong_has_an_error_of_one_and_one_that_is_sure_and_right_of_zero() -> None:
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert calibration(sure, np.array([1, 0])).ece == 1.0
    assert calibration(sure, np.array([0, 1])).ece == 0.0


def test_bins_say_how_often_what_was_said_came_true_and_empty_ones_say_nothing() -> None:
    bins = reliability_bins(np.array([0.5, 0.5, 0.9]), np.array([True, False, True]))
    middle, high, empty = bins[7], bins[13], bins[0]
    assert (middle.n, middle.mean_confidence, middle.accuracy) == (2, 0.5, 0.5)
    assert (high.n, high.mean_confidence, high.accuracy) == (1, 0.9, 1.0)
    assert (empty.n, empty.mean_confidence, empty.accuracy) == (0, None, None)
    assert [item.low for item in bins[1:]] == [item.high for item in bins[:-1]]


def test_rows_that_lack_the_probability_of_no_domain_are_judged_by_what_they_hold() -> None:
    found = calibration(np.array([[0.2, 0.1], [0.6, 0.1]]), np.array([0, 1]))
    assert found.ece == pytest.approx((abs(0.2 - 1) + abs(0.6 - 0)) / 2)
    assert found.nll == pytest.approx(-(np.log(0.2) + np.log(0.1)) / 2)
