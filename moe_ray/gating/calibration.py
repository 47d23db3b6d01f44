"""Calibration of probabilities: temperatures, reliability, confusion."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.files import StoredRecord


class ReliabilityBin(StoredRecord):
    """Texts whose highest probability lies in [low, high): the mean confidence, and the accuracy."""

    low: float
    high: float
    n: int
    mean_confidence: float | None
    accuracy: float | None


class Calibration(StoredRecord):
    """How well confidence agrees with being right. `ece` is the expected calibration error over the bins, in [0, 1].

    `nll` is the mean negative log-likelihood of the true label, in nats.
    """

    ece: float
    nll: float
    bins: list[ReliabilityBin]


class LabelResult(StoredRecord):
    """One label over n texts that bear it. None where a ratio has nothing to divide by."""

    label: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


# Equal widths and 15 of them, as temperature scaling was published (Guo et al. 2017), so that figures compare.
NUM_BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
NUM_HALVINGS = 60  # of the range of 1/T, which leaves nothing that a double can hold
# Chosen by cross-validation on validation texts of real routers (docs/measurements/router-accuracy.md): a text with a
# plain probability of 0.99 counts half as confident. 0.99 ** 64 is 0.53, 0.95 ** 64 is 0.04.
CONFIDENCE_POWER = 64
# What a second temperature must add to the log-likelihood of the validation texts: the likelihood ratio test's 5 %.
MIN_GAIN_NATS = 1.92
# Misclassified texts that a second temperature needs: with fewer, the first few would decide alone.
MIN_MISTAKES = 20
MAX_DROP = 0.99  # of 1/T, from confident to uncertain texts; below 1, so that no verdict changes
DROP_STEP = 1e-4


def log_sum_exp(logits: FloatArray) -> FloatArray:
    """log(sum(exp(logits))) of each row [n], however large the logits are."""
    highest = logits.max(axis=1, keepdims=True)
    return np.asarray(highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1)))


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Probabilities [n, k] of `logits` / `temperature`."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class Temperatures(NamedTuple):
    """Two temperatures, between which 1/T is interpolated by the confidence of each text.

    `confident` holds at confidence 1 and `uncertain` at 0. Confidence is the highest uncalibrated probability to the
    power of `CONFIDENCE_POWER`. Without `confident`, `uncertain` holds for all texts. Both are positive, so that the
    most probable label never changes.
    """

    uncertain: float
    confident: float | None = None

    def scaled(self, logits: FloatArray) -> FloatArray:
        """`logits`, each row divided by its temperature."""
        if self.confident is None:
            return logits / self.uncertain
        confidence = _confidence(logits)
        return logits * ((1 - confidence) / self.uncertain + confidence / self.confident)

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Calibrated probabilities [n, k]."""
        return softmax(self.scaled(logits))


def _confidence(logits: FloatArray) -> FloatArray:
    """From 0 to 1 for each text [n, 1]."""
    return np.asarray(softmax(logits).max(axis=1, keepdims=True) ** CONFIDENCE_POWER)


def fit_temperatures(logits: FloatArray, gold: IntArray) -> Temperatures:
    """Fit one temperature, or two if the n validation texts support a second.

    The second must add `MIN_GAIN_NATS` to the log-likelihood of the texts and the prior. It is not fitted if fewer than
    `MIN_MISTAKES` texts are misclassified. Confident texts have the lower temperature.
    """
    one = Temperatures(fit_temperature(logits, gold))
    if (logits.argmax(axis=1) != gold).sum() < MIN_MISTAKES:
        return one
    two = _fit_two(logits, gold)
    loss_of_one, loss_of_two = (_loss(temperatures.scaled(logits), gold) for temperatures in (one, two))
    return two if (len(gold) + 1) * (loss_of_one - loss_of_two) >= MIN_GAIN_NATS else one


def _fit_two(logits: FloatArray, gold: IntArray) -> Temperatures:
    """Fit two temperatures. The loss is convex in both 1/T, so it has one minimum along the drop between them."""
    from scipy.optimize import minimize_scalar

    confidence = _confidence(logits)

    def dropping(drop: float) -> Temperatures:
        confident = fit_temperature(logits * (1 - drop * (1 - confidence)), gold)
        return Temperatures(uncertain=min(confident / (1 - drop), MAX_TEMPERATURE), confident=confident)

    found = minimize_scalar(
        lambda drop: _loss(dropping(drop).scaled(logits), gold),
        bounds=(0, MAX_DROP),
        method="bounded",
        options={"xatol": DROP_STEP},
    )
    return dropping(float(found.x))


def fit_temperature(logits: FloatArray, gold: IntArray) -> float:
    """Fit a temperature by maximum likelihood on n validation texts and a prior worth one text.

    The prior is uniform over the labels. It keeps T above 0 for a router that makes no mistake on its validation texts.
    The negative log-likelihood is convex in 1/T, so bisection of its slope finds the minimum. Logits that are all equal
    have temperature 1.
    """
    wanted = _wanted(logits, gold)
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if not np.ptp(logits, axis=1).any():
        return 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if _slope(logits, wanted, middle) < 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def _wanted(logits: FloatArray, gold: IntArray) -> float:
    """The mean logit of the true labels, with the prior's."""
    num = len(gold)
    return float((num * logits[np.arange(num), gold] + logits.mean(axis=1)).mean() / (num + 1))


def _loss(logits: FloatArray, gold: IntArray) -> float:
    """Mean negative log-likelihood of the n texts and the prior, in nats."""
    return float(log_sum_exp(logits).mean()) - _wanted(logits, gold)


def _slope(logits: FloatArray, wanted: float, inverse_temperature: float) -> float:
    """Derivative of the mean negative log-likelihood by 1/T: expected logit less wanted logit."""
    probabilities = softmax(logits * inverse_temperature)
    return float((probabilities * logits).sum(axis=1).mean()) - wanted


def calibration(probabilities: FloatArray, gold: IntArray) -> Calibration:
    """Expected calibration error, negative log-likelihood and reliability bins of at least one text.

    Rows may sum to less than 1: what they lack is the probability of none of these. Confidence is a row's highest
    probability, and the text is right where that is its label's.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == gold
    gaps = np.bincount(_bin_places(confidence), weights=confidence - right)
    return Calibration(
        ece=float(np.abs(gaps).sum()) / len(gold),
        nll=negative_log_likelihood(probabilities, gold),
        bins=reliability_bins(confidence, right),
    )


def negative_log_likelihood(probabilities: FloatArray, gold: IntArray) -> float:
    """Mean negative log-likelihood of the true labels, in nats; a probability of 0 counts as the smallest double."""
    own = probabilities[np.arange(len(gold)), gold]
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def reliability_bins(confidence: FloatArray, right: npt.NDArray[np.bool_]) -> list[ReliabilityBin]:
    """`NUM_BINS` bins of equal width over [0, 1]; a confidence of 1 lies in the last one."""
    places = _bin_places(confidence)
    return [_bin(at, confidence[places == at], right[places == at]) for at in range(NUM_BINS)]


def _bin_places(confidence: FloatArray) -> IntArray:
    return np.minimum((confidence * NUM_BINS).astype(np.intp), NUM_BINS - 1)


def _bin(at: int, confidence: FloatArray, right: npt.NDArray[np.bool_]) -> ReliabilityBin:
    known = len(confidence) > 0
    return ReliabilityBin(
        low=at / NUM_BINS,
        high=(at + 1) / NUM_BINS,
        n=len(confidence),
        mean_confidence=float(confidence.mean()) if known else None,
        accuracy=float(right.mean()) if known else None,
    )


def confusion_matrix(gold: IntArray, predicted: IntArray, num_labels: int) -> IntArray:
    """Counts [num_labels, num_labels]: texts of label i that were given label j."""
    counts = np.bincount(gold * num_labels + predicted, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels).astype(np.intp)


def f1_of_labels(confusion: IntArray) -> list[float | None]:
    """F1 of each label; None for a label that no text bears and none was given."""
    right, given, borne = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return [_ratio(2 * a, b + c) for a, b, c in zip(right, given, borne, strict=True)]


def macro_f1(confusion: IntArray) -> float:
    """Mean F1 of the labels that some text bears or was given; there is at least one text."""
    known = [f1 for f1 in f1_of_labels(confusion) if f1 is not None]
    return sum(known) / len(known)


def label_results(labels: Sequence[str], confusion: IntArray) -> list[LabelResult]:
    """Precision, recall and F1 of each label."""
    right, given, borne = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return [
        LabelResult(
            label=label,
            n=int(borne[at]),
            precision=_ratio(right[at], given[at]),
            recall=_ratio(right[at], borne[at]),
            f1=f1,
        )
        for at, (label, f1) in enumerate(zip(labels, f1_of_labels(confusion), strict=True))
    ]


def _ratio(part: int, whole: int) -> float | None:
    return float(part) / float(whole) if whole else None
