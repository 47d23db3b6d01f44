"""Answers as long as MBPP's references: which lengths to want, and which prompts give them."""

from collections.abc import Sequence

import numpy as np

# Characters of the reference solutions of MBPP's 474 training and prompt tasks, at these quantiles.
QUANTILES = (0.0, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 1.0)
CHARACTERS = (30, 67, 77, 96, 139, 203, 338, 397, 904)
CHARACTERS_PER_TOKEN = 2.4


def reference_lengths(num: int, longest: int) -> list[int]:
    """Return `num` lengths in tokens, in ascending order, spread as MBPP's references are, none above `longest`."""
    places = (np.arange(num) + 0.5) / num
    tokens = np.interp(places, QUANTILES, CHARACTERS) / CHARACTERS_PER_TOKEN
    return [min(longest, max(1, round(length))) for length in tokens.tolist()]


def choose(lengths: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Return a place in `lengths` for each of `wanted`: the nearest that is free, the longest choosing first.

    Raises `ValueError` when there are fewer lengths than are wanted.
    """
    if len(lengths) < len(wanted):
        raise ValueError(f"{len(lengths)} candidates for {len(wanted)} prompts")
    free = set(range(len(lengths)))
    chosen = {}
    for rank in sorted(range(len(wanted)), key=lambda rank: -wanted[rank]):
        target = wanted[rank]
        place = min(free, key=lambda place: (abs(lengths[place] - target), place))
        free.remove(place)
        chosen[rank] = place
    return [chosen[rank] for rank in range(len(wanted))]
