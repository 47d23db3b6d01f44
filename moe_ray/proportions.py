"""Wilson's interval of a share: for the comparison of systems, and for a router's test."""

import math

CONFIDENCE = 0.95
Z_95 = 1.959963984540054


def wilson_bounds(num_right: int, num_scored: int) -> tuple[float, float]:
    """Bounds of Wilson's 95 % score interval for a proportion, corrected near 0 and 1; `num_scored` is at least 1.

    Where one, two or three are right (or wrong), Wilson's bound towards 0 (or 1) is too near: the interval of 1 in 10
    misses a truth of 0.01. There it is the bound of a Poisson count, if that is farther (Brown, Cai and
    DasGupta 2001, "modified Wilson").
    """
    share = num_right / num_scored
    spread = Z_95**2 / num_scored
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / num_scored + spread / (4 * num_scored))
    low = min(centre - half, _least_share(num_right, num_scored))
    high = max(centre + half, 1 - _least_share(num_scored - num_right, num_scored))
    return max(0.0, low), min(1.0, high)


def _least_share(count: int, num_scored: int) -> float:
    """The lower bound that a count near 0 gives to its share; 1, thus no bound, for a larger count."""
    from scipy.special import gammaincinv

    if count == 0:
        return 0.0
    if count > (2 if num_scored <= 50 else 3):
        return 1.0
    return float(gammaincinv(count, 1 - CONFIDENCE)) / num_scored
