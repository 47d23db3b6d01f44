"""Texts to token ids, and token ids to batches. Every text is read alone; padding is masked."""

from collections.abc import Sequence
from typing import Any

import torch

from moe_ray.characters import whole_characters

CHARACTERS_PER_TOKEN = 16  # beyond what tokenizers reach on prose, so that one cut is mostly enough

TokenIds = list[int]


class TextReader:
    """Reads the first `tokenizer.model_max_length` tokens of texts, special tokens included."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = int(tokenizer.model_max_length)
        self.pad_token_id = int(tokenizer.pad_token_id)

    def read(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the token ids of each text, one at least.

        They are those of the tokenizer on the whole text, but of a very long one no more is read than fills them. A
        half of a surrogate pair, which is no character, is read as a question mark.
        """
        whole = [whole_characters(text, "?") for text in texts]
        rows: list[TokenIds] = [[] for _ in whole]
        pending, num_characters = list(range(len(whole))), self._max_tokens * CHARACTERS_PER_TOKEN
        while pending:
            cuts = [_beginning(whole[at], num_characters) for at in pending]
            for at, row in zip(pending, self._encode(cuts), strict=True):
                rows[at] = row or [self.pad_token_id]
            is_short = [
                len(rows[at]) < self._max_tokens and len(cut) < len(whole[at])
                for at, cut in zip(pending, cuts, strict=True)
            ]
            pending = [at for at, short in zip(pending, is_short, strict=True) if short]
            num_characters *= 2
        return rows

    def _encode(self, texts: list[str]) -> list[TokenIds]:
        encoded = self._tokenizer(
            texts,
            truncation=True,
            max_length=self._max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        rows: list[TokenIds] = encoded["input_ids"]
        return rows


def _beginning(text: str, num_characters: int) -> str:
    """Cut at the last space, because tokenizers split there whatever follows; anywhere in a text without spaces."""
    if len(text) <= num_characters:
        return text
    cut = text[:num_characters]
    last_space = max(cut.rfind(space) for space in " \n\t")
    return cut[:last_space] if last_space > 0 else cut


def pad(rows: Sequence[TokenIds], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` [num_rows, longest row], padded on the right."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [pad_token_id] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }
