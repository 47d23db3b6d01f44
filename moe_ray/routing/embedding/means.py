"""Texts to the mean embeddings that a gating network decides by."""

from collections.abc import Sequence

import torch

from moe_ray.architectures.gating_network import mean_embeddings
from moe_ray.routing.embedding.checkpoint import InputEmbeddings
from moe_ray.routing.embedding.reading import batches, padded, token_ids


def mean_text_embeddings(
    embeddings: InputEmbeddings, texts: Sequence[str], *, max_tokens: int, with_special_tokens: bool = False
) -> torch.Tensor:
    """The mean embedding of each text's first tokens [num_texts, H] in float32, on the device of the embeddings."""
    matrix = embeddings.matrix
    rows = token_ids(
        embeddings.tokenizer,
        texts,
        max_tokens=max_tokens,
        num_embeddings=len(matrix),
        with_special_tokens=with_special_tokens,
    )
    means = [torch.zeros(0, matrix.shape[1], device=matrix.device)]
    for batch in batches(rows, matrix.shape[1]):
        ids, mask = padded(batch)
        means.append(mean_embeddings(matrix, ids.to(matrix.device), mask.to(matrix.device)))
    return torch.cat(means)
