"""Token blocks of texts, for training and for bits per byte of held-out texts."""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from moe_ray.characters import whole_characters
from moe_ray.device import visible_device
from moe_ray.errors import DataError
from moe_ray.moe.running import load_for_construction, load_tokenizer


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


MAX_WINDOW_TOKENS = 1024


def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the bits that the model needs for a byte of `texts`, each text for itself, its end token left out."""
    nats = sum(nats_by_text(model, tokenizer, texts))
    return nats / math.log(2) / sum(len(whole_characters(text, "?").encode()) for text in texts)


def nats_by_text(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[float]:
    """Return what each text costs the model, in nats, its end token left out.

    A text longer than the model's context is read in windows that know nothing of each other. Each window begins
    after an end token, so that every token is foretold once.
    """
    length = min(int(model.config.max_position_embeddings), MAX_WINDOW_TOKENS) - 1
    end, costs = end_token(tokenizer), []
    with torch.inference_mode():
        for text in texts:
            ids = plain_ids(tokenizer, text)
            windows = ([end, *ids[start : start + length]] for start in range(0, len(ids), length))
            costs.append(sum(_nats(model, window) for window in windows))
    return costs


def _nats(model: Any, window: Sequence[int]) -> float:
    """Return what all tokens of a window but the first cost."""
    ids = torch.tensor([window], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))


def bits_by_expert(directory: Path, held_out: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the bits per byte of the checkpoint in `directory` on each expert's held-out texts."""
    model, tokenizer = load_for_construction(directory, device=visible_device()), load_tokenizer(directory)
    return {expert: bits_per_byte(model, tokenizer, texts) for expert, texts in held_out.items()}
