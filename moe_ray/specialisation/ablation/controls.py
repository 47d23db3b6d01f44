"""Control draws: as many selections as a removal takes, from other experts of the layer. Needs no torch.

A draw takes from each text as many selections as the expert has there, rank by rank: as many first choices, as many
second ones. Of experts that are removed together, a token can lose several: a draw takes all of those ranks from as
many other tokens. Texts have one class, so that draws are matched within class too. What a draw prefers are kinds of
tokens, the same ones in all texts, as a router does: a draw of single tokens at random would average out over texts,
and an expert that is like any other would look special.

The first token of a text is matched apart, because it is often one that all later tokens attend to: a draw takes it
only if the removal does, and then from another expert of the same token.

Shapes: T tokens, K selected experts, R draws.
"""

# ruff: noqa: N803, N806 - capital suffixes name the axes of an array

from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.fingerprint import fingerprint

Words = np.ndarray[Any, np.dtype[np.uint64]]

# The finalizer of MurmurHash3: each bit of the input turns half of those of the output.
FIRST_FACTOR, SECOND_FACTOR = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
SHIFT = np.uint64(33)
SEED_BITS = 64


class ControlDraws(NamedTuple):
    """`masks` [R, T, K]: the selections that each draw removes. `num_matched` [R] of `num_removed` were found."""

    masks: BoolArray
    num_removed: int
    num_matched: IntArray


def control_draws(
    index_TK: IntArray,
    weights_TK: FloatArray,
    token_ids_T: IntArray,
    *,
    experts: Collection[int],
    num_experts: int,
    layer: int,
    num_draws: int,
    seed: int,
) -> ControlDraws:
    """Return draws that are matched to the removal of `experts` from one text's selections in one layer.

    They follow from the arguments alone. A token loses as many selections, of the same ranks, as one of the removal.
    Where other experts have too few selections of a rank, fewer are drawn.
    """
    ordered = sorted(experts)
    ranks_TK = np.argsort(np.argsort(-weights_TK, axis=1, kind="stable"), axis=1, kind="stable")
    is_expert = np.isin(index_TK, ordered)
    is_other = ~is_expert & (index_TK >= 0) & (index_TK < num_experts)
    # Which ranks a token loses, as bits.
    lost_T = (is_expert << ranks_TK).sum(axis=1)
    masks = np.zeros((num_draws, *index_TK.shape), dtype=np.bool_)
    first = np.zeros(len(index_TK), dtype=np.bool_)
    first[:1] = True
    for draw in range(num_draws):
        base = np.uint64(_base(seed, ordered[0] if len(ordered) == 1 else tuple(ordered), layer, draw))
        order_T = _order(token_ids_T, base)
        free_T = ~first
        for lost in _patterns(lost_T[~first]):
            at_ranks = (lost >> ranks_TK) & 1 == 1
            wanted = int((lost_T[~first] == lost).sum())
            candidates = (is_other | ~at_ranks).all(axis=1) & free_T
            chosen = order_T[candidates[order_T]][:wanted]
            masks[draw, chosen] = at_ranks[chosen]
            free_T[chosen] = False
        if is_expert[:1].any():
            _draw_first(masks[draw], is_other, int(is_expert[0].sum()), base)
    return ControlDraws(masks, int(is_expert.sum()), masks.sum(axis=(1, 2)))


def _patterns(lost_T: IntArray) -> list[int]:
    """Return the sets of ranks that tokens lose, those of the most ranks first: fewest tokens can lose them."""
    found: list[int] = np.unique(lost_T[lost_T > 0]).tolist()
    return sorted(found, key=lambda lost: (-lost.bit_count(), lost))


@lru_cache(maxsize=1 << 16)
def _base(seed: int, experts: int | tuple[int, ...], layer: int, draw: int) -> int:
    return int(fingerprint([seed, experts, layer, draw]), 16) % (1 << SEED_BITS)


def _draw_first(mask_TK: BoolArray, is_other: BoolArray, wanted: int, base: np.uint64) -> None:
    places = np.flatnonzero(is_other[0])
    if len(places):
        start = int(base) % len(places)
        mask_TK[0, np.roll(places, -start)[:wanted]] = True


def _order(token_ids_T: IntArray, base: np.uint64) -> IntArray:
    """Return places of tokens in the order of a draw: by kind of token, tokens of one kind by their place."""
    kinds = _mixed(_mixed(token_ids_T.astype(np.uint64)) ^ base)
    places = _mixed(np.arange(len(token_ids_T), dtype=np.uint64) + (base | np.uint64(1)))
    order: IntArray = np.lexsort((places, kinds)).astype(np.int64)
    return order


def _mixed(words: Words) -> Words:
    with np.errstate(over="ignore"):
        found = (words ^ (words >> SHIFT)) * FIRST_FACTOR
        found = (found ^ (found >> SHIFT)) * SECOND_FACTOR
    mixed: Words = found ^ (found >> SHIFT)
    return mixed
