"""Texts as one stream of tokens, cut into blocks, and drawn in an order that a step's number alone decides."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from moe_ray.characters import whole_characters
from moe_ray.errors import DataError


def token_blocks(tokenizer: Any, texts: Sequence[str], *, block_tokens: int) -> torch.Tensor:
    """Return all texts' tokens in blocks [num_blocks, block_tokens], an end token after each text; the rest is left.

    Raises `DataError` when they do not fill one block.
    """
    end = end_token(tokenizer)
    stream = [token for text in texts for token in (*plain_ids(tokenizer, text), end)]
    num_blocks = len(stream) // block_tokens
    if not num_blocks:
        raise DataError(
            f"{len(stream)} tokens of text do not fill one block of {block_tokens}",
            remedy="give more text, or lower block_tokens",
        )
    return torch.tensor(stream[: num_blocks * block_tokens]).view(num_blocks, block_tokens)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens, and none around it. Half a surrogate pair, which is no character, is read as a question mark."""
    ids: list[int] = tokenizer(whole_characters(text, "?"), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def end_token(tokenizer: Any) -> int:
    """The token that ends a text. Raises `DataError` for a tokenizer that has none."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end token", remedy="take a tokenizer with an eos_token")
    return int(tokenizer.eos_token_id)


def batch_of_step(step: int, *, num_blocks: int, batch_size: int, seed: int) -> list[int]:
    """The blocks of a step: all are gone through in an order of its own each time, and batches run on over its end."""
    places = range(step * batch_size, (step + 1) * batch_size)
    orders = {epoch: _order(epoch, num_blocks, seed) for epoch in {place // num_blocks for place in places}}
    return [orders[place // num_blocks][place % num_blocks] for place in places]


def _order(epoch: int, num_blocks: int, seed: int) -> list[int]:
    return random.Random(f"{seed}:{epoch}").sample(range(num_blocks), num_blocks)
