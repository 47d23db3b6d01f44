"""Tokenize texts: learn a tokenizer, and measure bits per byte on held-out texts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from moe_ray.characters import whole_characters
from moe_ray.device import visible_device
from moe_ray.errors import DataError
from moe_ray.moe.running import load_for_construction, load_tokenizer

DEFAULT_VOCABULARY_SIZE = 4096
END = "<|endoftext|>"


def learn_tokenizer(texts: Sequence[str], num_tokens: int) -> Any:
    """Train a byte-level BPE tokenizer with up to `num_tokens` tokens on `texts`; it can encode any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return a text's token ids without special tokens. A lone surrogate is replaced by a question mark."""
    ids: list[int] = tokenizer(whole_characters(text, "?"), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def end_token(tokenizer: Any) -> int:
    """Return the id of the end token. Raises `DataError` for a tokenizer without one."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end token", remedy="take a tokenizer with an eos_token")
    return int(tokenizer.eos_token_id)


MAX_WINDOW_TOKENS = 1024


def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the model's bits per byte on `texts`. Texts are scored independently, without their end tokens."""
    nats = sum(nats_by_text(model, tokenizer, texts))
    return nats / math.log(2) / sum(len(whole_characters(text, "?").encode()) for text in texts)


def nats_by_text(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[float]:
    """Return the negative log-likelihood of each text in nats, without its end token.

    A text longer than the model's context is scored in independent windows. Each window starts with an end token, so
    that every token of the text is predicted exactly once.
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
    """Return the negative log-likelihood of a window's tokens after the first."""
    ids = torch.tensor([window], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))


def bits_by_expert(directory: Path, held_out: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the bits per byte of the checkpoint in `directory` on each expert's held-out texts."""
    model, tokenizer = load_for_construction(directory, device=visible_device()), load_tokenizer(directory)
    return {expert: bits_per_byte(model, tokenizer, texts) for expert, texts in held_out.items()}
