"""Which expert of one mixture is which of another: the numbers of experts are arbitrary.

An expert's profile is its share of each text's selections, over texts that both traces hold; without such texts, its
lift in each class. Pairs maximise the sum of the profiles' correlations (Hungarian algorithm). Any two mixtures have a
best match, and two random routers that read the same texts have correlated profiles, too. The null therefore keeps what
B's experts follow together and mixes which expert follows what: profiles of B in randomly rotated axes, matched again.

Shapes: A, B experts, n columns of a profile (texts or classes), R rotations.
"""

# ruff: noqa: N803, N806 - capital suffixes name the axes of an array

from dataclasses import dataclass

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.fingerprint import fingerprint

NUM_ROTATIONS, NUM_ROTATIONS_OF_MANY = 499, 199
MANY_EXPERTS = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchedExperts:
    """The best match of two sets of experts, M = min(A, B) pairs in the order of A's experts.

    `a` and `b` [M] are experts, `similarity` [M] the correlations of their profiles, and `null` [R, M] what a's
    partner has in each rotation. `p_values` [M] are of that null; `p_value` is of the mean similarity.
    """

    a: IntArray
    b: IntArray
    similarity: FloatArray
    null: FloatArray
    p_values: FloatArray
    p_value: float


def match_experts(profile_An: FloatArray, profile_Bn: FloatArray, *, purpose: str) -> MatchedExperts:
    """Match experts by the correlation of their profiles. The rotations follow from `purpose` and the shapes alone."""
    a_An, b_Bn = standardised(profile_An), standardised(profile_Bn)
    similarity_AB = a_An @ b_Bn.T / a_An.shape[1]
    a, b = _assigned(similarity_AB)
    found = similarity_AB[a, b]
    null_RA = _rotated(similarity_AB, b_Bn, purpose)
    null = null_RA[:, a]
    tolerance = 1e-12
    means = np.nanmean(null_RA, axis=1)
    return MatchedExperts(
        a=a,
        b=b,
        similarity=found,
        null=null,
        p_values=((np.nan_to_num(null, nan=-1.0) >= found - tolerance).sum(axis=0) + 1) / (len(null) + 1),
        p_value=float(((means >= found.mean() - tolerance).sum() + 1) / (len(null) + 1)),
    )


def standardised(profiles: FloatArray) -> FloatArray:
    """Return profiles with mean 0 and variance 1 over their columns; zeros for one that never varies."""
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    whole: FloatArray = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
    return whole


def _assigned(similarity_AB: FloatArray) -> tuple[IntArray, IntArray]:
    from scipy.optimize import linear_sum_assignment

    a, b = linear_sum_assignment(similarity_AB, maximize=True)
    return np.asarray(a, dtype=np.intp), np.asarray(b, dtype=np.intp)


def _rotated(similarity_AB: FloatArray, b_Bn: FloatArray, purpose: str) -> FloatArray:
    """Return what each expert of A shares with its partner among B's experts in rotated axes [R, A]; NaN without one.

    Experts that never vary are not rotated.
    """
    used = np.flatnonzero(b_Bn.any(axis=1))
    gram = b_Bn[used] @ b_Bn[used].T / b_Bn.shape[1]
    num = NUM_ROTATIONS if max(similarity_AB.shape) <= MANY_EXPERTS else NUM_ROTATIONS_OF_MANY
    shape = list(similarity_AB.shape)
    seed = int(fingerprint({"purpose": purpose, "shape": shape}), 16)
    rng = np.random.Generator(np.random.PCG64(seed))
    found = np.full((num, len(similarity_AB)), np.nan)
    for draw in range(num):
        turned = np.zeros_like(similarity_AB)
        if len(used):
            axes = rotation(rng, len(used))
            lengths = np.sqrt(np.maximum(((axes @ gram) * axes).sum(axis=1), 1e-12))
            turned[:, used] = similarity_AB[:, used] @ axes.T / lengths
        a, b = _assigned(turned)
        found[draw, a] = turned[a, b]
    return found


def rotation(rng: np.random.Generator, size: int) -> FloatArray:
    """Return an orthogonal matrix drawn uniformly (Haar), from the QR decomposition of normal numbers."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    drawn: FloatArray = q * np.sign(np.diag(r))
    return drawn
