"""Similarity of representations from arrays alone. Shapes: M tokens, H features."""

# ruff: noqa: N803 - capital suffixes name the axes of an array

from collections.abc import Sequence

import numpy as np

from moe_ray.arrays import FloatArray


def debiased_cka_matrix(answers: Sequence[FloatArray]) -> FloatArray:
    """Return the debiased linear CKA of each two of the arrays [M, H] of answers to the same tokens: [E, E].

    Linear centred kernel alignment (Kornblith et al. 2019) is near 1 for unrelated answers to fewer tokens than
    features. This one takes the unbiased HSIC of Song et al. 2012: at most 1, around 0 for unrelated answers. NaN for
    fewer than 4 tokens, and where one of the two never varies.
    """
    size = len(answers)
    if not size or len(answers[0]) < 4:
        return np.full((size, size), np.nan)
    grams = [_gram(answer) for answer in answers]
    own = [_hsic(gram, gram) for gram in grams]
    found = np.eye(size)
    for a in range(size):
        for b in range(a):
            found[a, b] = found[b, a] = _ratio(_hsic(grams[a], grams[b]), own[a], own[b])
    return found


def _gram(x_MH: FloatArray) -> FloatArray:
    """Return the products of each two tokens [M, M], without those of a token with itself."""
    centred = x_MH - x_MH.mean(axis=0)  # changes nothing in exact arithmetic, and spares digits
    gram: FloatArray = centred @ centred.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(k: FloatArray, l_: FloatArray) -> float:
    """The unbiased estimator of HSIC from two grams with zero diagonals (Song et al. 2012, equation 5)."""
    num = len(k)
    k_sums, l_sums = k.sum(axis=0), l_.sum(axis=0)
    trace = float((k * l_).sum())
    together = float(k_sums.sum() * l_sums.sum()) / ((num - 1) * (num - 2))
    return (trace + together - 2 * float(k_sums @ l_sums) / (num - 2)) / (num * (num - 3))


def _ratio(between: float, first: float, second: float) -> float:
    return between / float(np.sqrt(first * second)) if first > 0 and second > 0 else float("nan")


def cosines(products: FloatArray) -> FloatArray:
    """Return the cosines of vectors of which `products` holds all inner products."""
    lengths = np.sqrt(np.diag(products))
    whole = np.outer(lengths, lengths)
    ratio: FloatArray = np.divide(products, whole, out=np.full_like(products, np.nan), where=whole > 0)
    return ratio
