"""How sure a router may be: probabilities from logits, temperature scaling, and how well confidence agrees with truth.

Shapes: n texts, k labels; `logits` and `probabilities` [n, k], `gold` [n] holds the place of each text's label.
"""

import numpy as np
import numpy.typing as npt

from moe_ray.routing.results import Calibration, ReliabilityBin

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

# Equal widths and 15 of them, as temperature scaling was published (Guo et al. 2017), so that figures compare.
NUM_BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
NUM_HALVINGS = 60  # of the range of 1/T, which leaves nothing that a double can hold


def log_sum_exp(logits: FloatArray) -> FloatArray:
    """log(sum(exp(logits))) of each row [n], however large the logits are."""
    highest = logits.max(axis=1, keepdims=True)
    return np.asarray(highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1)))


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Probabilities [n, k] of `logits` / `temperature`."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(logits: FloatArray, gold: IntArray) -> float:
    """The temperature at which the n validation texts are likeliest, beside one text that says nothing.

    That one text's worth of doubt, spread evenly over the labels, is what keeps a router that makes no mistake on its
    validation texts from being taken for one that never will (T -> 0). The negative log-likelihood is convex in 1/T,
    so its slope is halved down to its only zero. Logits that are all equal have temperature 1.
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
    """The mean logit of the true labels, with one text's worth of doubt."""
    num = len(gold)
    return float((num * logits[np.arange(num), gold] + logits.mean(axis=1)).mean() / (num + 1))


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
