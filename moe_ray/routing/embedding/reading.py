"""Texts to the token ids whose embeddings are averaged, and those to batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from moe_ray.characters import whole_characters

# Tokens of prose have four or five characters, runs of spaces a few dozen: what is cut away would hardly ever be read.
CHARACTERS_PER_TOKEN = 32
MAX_BATCH_NUMBERS = 1 << 20  # that are looked up at once: 4 MiB in float32


def token_ids(
    tokenizer: Any, texts: Sequence[str], *, max_tokens: int, num_embeddings: int, with_special_tokens: bool = False
) -> list[list[int]]:
    """Return the first `max_tokens` tokens of each text; none of an empty one.

    The tokenizer's special tokens are put around the text only where they are wanted. Tokens that have no embedding are
    left out. Half a surrogate pair, which is no character, is read as a question mark.
    """
    if not texts:
        return []
    cut = [whole_characters(text[: max_tokens * CHARACTERS_PER_TOKEN], "?") for text in texts]
    encoded = tokenizer(
        cut,
        add_special_tokens=with_special_tokens,
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return [[token for token in row if token < num_embeddings] for row in encoded["input_ids"]]


def batches(rows: Sequence[list[int]], num_features: int) -> Iterator[Sequence[list[int]]]:
    """Yield the rows of token ids in their order, as many at a time as caches can hold the embeddings of, or one."""
    start, num_tokens = 0, 0
    for at, row in enumerate(rows):
        num_tokens += len(row)
        if at > start and num_tokens * num_features > MAX_BATCH_NUMBERS:
            yield rows[start:at]
            start, num_tokens = at, len(row)
    if rows:
        yield rows[start:]


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask [num_rows, longest row], padded on the right with 0, which is masked."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[at, : len(row)] = 1
    return ids, mask
