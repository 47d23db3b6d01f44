"""Formulas of specialisation over counts, as pure functions. Every value in bits is a plug-in value.

A plug-in value is too high for few tokens: `specialisation.measures` shows each beside its null. Shapes: C classes,
E experts; leading axes of an array are independent tables. Weights of classes default to equal ones.
"""

# ruff: noqa: N803, N806 - capital suffixes name the axes of an array

import numpy as np
import numpy.typing as npt

from moe_ray.arrays import FloatArray


def shares(counts: npt.ArrayLike) -> FloatArray:
    """Return counts divided by their sum over the last axis; zeros where nothing was counted."""
    values = np.asarray(counts, dtype=np.float64)
    totals = values.sum(axis=-1, keepdims=True)
    divided: FloatArray = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
    return divided


def entropy(counts: npt.ArrayLike) -> FloatArray:
    """Shannon entropy of the shares along the last axis: H(p) = -sum p log2 p, in bits."""
    p = shares(counts)
    logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
    summed: FloatArray = 0.0 - (p * logs).sum(axis=-1)
    return summed


def load_entropy(counts_E: npt.ArrayLike) -> FloatArray:
    """H(p) / log2 E of an expert load: 1 is perfect balance, 0 one expert alone. Says nothing of weights."""
    values = np.asarray(counts_E, dtype=np.float64)
    most = np.log2(values.shape[-1])
    return entropy(values) / most if most else np.ones(values.shape[:-1])


def max_violation(counts_E: npt.ArrayLike) -> FloatArray:
    """MaxVio = max_e n_e / mean n - 1, a ratio: 0 is balance, E/K - 1 the most (Wang et al. 2024, equation 4)."""
    values = np.asarray(counts_E, dtype=np.float64)
    mean = values.mean(axis=-1)
    top = values.max(axis=-1)
    ratio: FloatArray = np.divide(top, mean, out=np.ones_like(top), where=mean > 0) - 1
    return ratio


def utilisation(counts_E: npt.ArrayLike, num_tokens: npt.ArrayLike) -> FloatArray:
    """Share of the tokens for which each expert was selected, n_e / T; a uniform router gives K / E (OLMoE)."""
    return np.asarray(counts_E, dtype=np.float64) / np.asarray(num_tokens, dtype=np.float64)[..., None]


def class_weights(num_classes: int, weights: npt.ArrayLike | None = None) -> FloatArray:
    """Return weights that sum to 1, equal by default."""
    given = np.ones(num_classes) if weights is None else np.asarray(weights, dtype=np.float64)
    divided: FloatArray = given / given.sum()
    return divided


def generalised_js(counts_CE: npt.ArrayLike, weights_C: npt.ArrayLike | None = None) -> FloatArray:
    """Generalised Jensen-Shannon divergence H(sum pi_c p_c) - sum pi_c H(p_c), in bits.

    It is the mutual information of the class and the expert of a random selection, where classes are drawn by their
    weights (Lin 1991).
    """
    p_CE = shares(counts_CE)
    pi_C = class_weights(p_CE.shape[-2], weights_C)
    mixed_E = (pi_C[:, None] * p_CE).sum(axis=-2)
    within: FloatArray = (pi_C * entropy(p_CE)).sum(axis=-1)
    between: FloatArray = entropy(mixed_E) - within
    return between


def normalised_js(counts_CE: npt.ArrayLike, weights_C: npt.ArrayLike | None = None) -> FloatArray:
    """`generalised_js` divided by the entropy of the classes, H(pi): the share of the class that is known."""
    num_classes = np.asarray(counts_CE).shape[-2]
    most = float(entropy(class_weights(num_classes, weights_C)))
    return generalised_js(counts_CE, weights_C) / most


def pairwise_js(counts_CE: npt.ArrayLike) -> FloatArray:
    """Jensen-Shannon divergence of each pair of classes, equally weighted, in bits: [..., C, C]."""
    p_CE = shares(counts_CE)
    mixed = (p_CE[..., :, None, :] + p_CE[..., None, :, :]) / 2
    own = entropy(p_CE)
    return np.maximum(entropy(mixed) - (own[..., :, None] + own[..., None, :]) / 2, 0.0)


def mean_pairwise_js(counts_CE: npt.ArrayLike) -> FloatArray:
    """Mean of `pairwise_js` over all pairs of different classes, in bits."""
    pairs = pairwise_js(counts_CE)
    at = np.triu_indices(pairs.shape[-1], k=1)
    mean: FloatArray = pairs[..., at[0], at[1]].mean(axis=-1)
    return mean


def lift(counts_CE: npt.ArrayLike, weights_C: npt.ArrayLike | None = None, *, added: float = 0.0) -> FloatArray:
    """Share of an expert in a class over its share in the pooled classes, a ratio: [..., C, E].

    Classes are pooled by their weights, so that a long class does not decide what is usual. `added` selections are
    given to each expert in each class (add-1/2 shrinks the ratios of rarely used experts). NaN for an unused expert.
    """
    p_CE = shares(np.asarray(counts_CE, dtype=np.float64) + added)
    pi_C = class_weights(p_CE.shape[-2], weights_C)
    pooled = (pi_C[:, None] * p_CE).sum(axis=-2, keepdims=True)
    ratio: FloatArray = np.divide(p_CE, pooled, out=np.full_like(p_CE, np.nan), where=pooled > 0)
    return ratio


def lift_over_uniform(counts_CE: npt.ArrayLike) -> FloatArray:
    """Share of an expert in a class over 1 / E, a ratio: [..., C, E]. Differs from `lift` out of balance."""
    values = np.asarray(counts_CE, dtype=np.float64)
    ratio: FloatArray = shares(values) * values.shape[-1]
    return ratio


def class_information(counts_CE: npt.ArrayLike, weights_C: npt.ArrayLike | None = None) -> FloatArray:
    """Specialisation index of each expert: KL(P(class | e) || P(class)), in bits: [..., E].

    Weighted by the experts' pooled shares these sum to `generalised_js`. 0 for an unused expert.
    """
    p_CE = shares(counts_CE)
    pi_C = class_weights(p_CE.shape[-2], weights_C)[:, None]
    joint = pi_C * p_CE
    posterior = shares(np.swapaxes(joint, -1, -2))  # [..., E, C]
    ratio = np.divide(posterior, pi_C[:, 0], out=np.ones_like(posterior), where=posterior > 0)
    summed: FloatArray = (posterior * np.log2(ratio)).sum(axis=-1)
    return summed


def mutual_information(joint: npt.ArrayLike) -> FloatArray:
    """Mutual information of the two last axes of a table of counts [..., A, B], in bits."""
    counts = np.asarray(joint, dtype=np.float64)
    flat = counts.reshape(*counts.shape[:-2], -1)
    return entropy(counts.sum(axis=-1)) + entropy(counts.sum(axis=-2)) - entropy(flat)
