"""Key-value caches of rows that come and go: padded on the left to one length, and joined row by row.

Keys and values are [B, H, T, D]. Their last position is the newest of all rows, so that rows of different lengths
differ on the left alone, where padding is masked.
"""

from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


def is_resizable(cache: Any) -> bool:
    """Say whether all layers of `cache` are plain keys and values, of all positions or of a sliding window."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def resize(cache: Any, num_tokens: int) -> None:
    """Make `cache` as if all its rows had `num_tokens` tokens: pad on the left with zeros, or cut there."""
    for layer in cache.layers:
        if not layer.is_initialized:
            continue
        num_kept = num_tokens
        if layer.is_sliding:
            num_kept = min(num_tokens, layer.sliding_window - 1)
            layer.cumulative_length = num_tokens
        num_more = num_kept - layer.keys.shape[-2]
        if num_more:
            layer.keys = functional.pad(layer.keys, (0, 0, num_more, 0))
            layer.values = functional.pad(layer.values, (0, 0, num_more, 0))


def append_rows(cache: Any, other: Any) -> None:
    """Add the rows of `other`, a cache of the same length, behind those of `cache`."""
    for layer, added in zip(cache.layers, other.layers, strict=True):
        if layer.is_initialized:
            layer.keys = torch.cat([layer.keys, added.keys])
            layer.values = torch.cat([layer.values, added.values])
