"""Which expert of one mixture is which of another: the numbers of experts are arbitrary.

An expert's profile is its share of each text's selections, over texts that both traces hold; without such texts, its
lift in each class. Pairs maximise the sum of the profiles' correlations (Hungarian algorithm).

Any two mixtures have a best match, and two random routers that read the same texts have correlated profiles. Permuting
texts would reject for both. The null therefore keeps what B's experts follow together, and redraws which expert follows
what: B's profiles in randomly rotated axes, matched again. Their sum stays, because shares sum to 1. For a router with
independent normal weights, rotated experts are distributed as its own. Two experts have one axis alone, so that
nothing can be rotated: their p-value is 1.

Shapes: A, B experts, n columns of a profile (texts or classes), R rotations.
"""

# ruff: noqa: N803, N806 - capital suffixes name the axes of an array

from dataclasses import dataclass

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.fingerprint import fingerprint

NUM_ROTATIONS, NUM_ROTATIONS_OF_MANY = 499, 199
MANY_EXPERTS = 16
MIN_SPREAD = 1e-9


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
    a_An = standardised(profile_An)
    similarity_AB = a_An @ standardised(profile_Bn).T / a_An.shape[1]
    a, b = _assigned(similarity_AB)
    found = similarity_AB[a, b]
    null_RA = _rotated(a_An, profile_Bn - profile_Bn.mean(axis=1, keepdims=True), purpose)
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
    whole: FloatArray = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > MIN_SPREAD)
    return whole


def _assigned(similarity_AB: FloatArray) -> tuple[IntArray, IntArray]:
    from scipy.optimize import linear_sum_assignment

    a, b = linear_sum_assignment(similarity_AB, maximize=True)
    return np.asarray(a, dtype=np.intp), np.asarray(b, dtype=np.intp)


def _rotated(a_An: FloatArray, centred_Bn: FloatArray, purpose: str) -> FloatArray:
    """Return what each expert of A shares with its partner among B's experts in rotated axes [R, A]; NaN without one.

    The sum of B's experts is not rotated: shares sum to 1, in whichever axes. Experts that never vary stay as they are.
    """
    used = np.flatnonzero(centred_Bn.std(axis=1) > MIN_SPREAD)
    cross_AB = a_An @ centred_Bn[used].T / a_An.shape[1]
    gram_BB = centred_Bn[used] @ centred_Bn[used].T / a_An.shape[1]
    shape = (len(a_An), len(centred_Bn))
    num = NUM_ROTATIONS if max(shape) <= MANY_EXPERTS else NUM_ROTATIONS_OF_MANY
    seed = int(fingerprint({"purpose": purpose, "shape": list(shape)}), 16)
    rng = np.random.Generator(np.random.PCG64(seed))
    found = np.full((num, len(a_An)), np.nan)
    for draw in range(num):
        turned = np.zeros(shape)
        axes = rotation_around_sum(rng, len(used))
        lengths = np.sqrt(np.maximum(((axes @ gram_BB) * axes).sum(axis=1), MIN_SPREAD**2))
        turned[:, used] = cross_AB @ axes.T / lengths
        a, b = _assigned(turned)
        found[draw, a] = turned[a, b]
    return found


def rotation_around_sum(rng: np.random.Generator, size: int) -> FloatArray:
    """Return a random orthogonal matrix that keeps the vector of ones: uniform (Haar) on what is orthogonal to it."""
    if size < 2:
        return np.eye(size)
    plane, _ = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, 1:]]))
    inner = plane[:, 1:]
    turned: FloatArray = inner @ rotation(rng, size - 1) @ inner.T + np.full((size, size), 1 / size)
    return turned


def rotation(rng: np.random.Generator, size: int) -> FloatArray:
    """Return an orthogonal matrix drawn uniformly (Haar), from the QR decomposition of normal numbers."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    drawn: FloatArray = q * np.sign(np.diag(r))
    return drawn
