"""How well a model foretells texts that it never saw: bits per byte, which no vocabulary flatters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from moe_ray.characters import whole_characters
from moe_ray.moe.apart.blocks import end_token, plain_ids
from moe_ray.moe.running import load_for_construction, load_tokenizer
from moe_ray.routing.device import visible_device

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
