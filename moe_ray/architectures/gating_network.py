"""A small network that decides by the mean of a text's input embeddings, and that mean.

It lies beside the modelling files because they are exported with it: it imports torch alone. Routers use it too.
Shapes: B texts, T tokens, H the embedding's size, N outputs.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

# A feature that never varied would be divided by zero; one that hardly did, by its own rounding.
MIN_SPREAD_SHARE = 1e-4


def mean_embeddings(
    embedding: torch.Tensor | nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean input embedding of each row's non-padding tokens, in float32 [B, H]; zeros where there are none.

    `embedding` is the matrix [vocabulary, H], or a model's own module, which may also scale what it looks up.
    `input_ids` and `attention_mask` are [B, T]: what stands where the mask is 0 counts for nothing.
    """
    counted = attention_mask.bool()
    ids = input_ids[counted]
    looked_up = nn.functional.embedding(ids, embedding) if isinstance(embedding, torch.Tensor) else embedding(ids)
    return _mean_of_each(looked_up, counted)


def mean_of_embedded(inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return what `mean_embeddings` does, of tokens that were looked up already: `inputs_embeds` is [B, T, H]."""
    counted = attention_mask.bool()
    return _mean_of_each(inputs_embeds[counted], counted)


def _mean_of_each(looked_up: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the means [B, H] of the tokens' embeddings, which lie one after the other as `counted` [B, T] has them."""
    num_counted = counted.sum(dim=1)
    places = torch.arange(len(looked_up), device=looked_up.device)
    starts = num_counted.cumsum(dim=0) - num_counted
    # A bag sums its rows where they lie, so that neither padding nor a masked copy of the embeddings costs anything.
    return nn.functional.embedding_bag(places, looked_up.float(), starts, mode="mean")


class GatingNetwork(nn.Module):
    """An MLP on inputs that are standardised and then brought to one length; N logits come out.

    Each hidden size is a linear layer, ReLU and dropout, and a linear layer ends it; without hidden sizes it is that
    one. Standardising does nothing until `standardise` was called, and is saved with the weights.

    Only the direction of a standardised input counts: its length mostly says of how many tokens it is the mean, and a
    short text, whose mean lies far out, would get logits as if it were certain.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, num_inputs: int, num_outputs: int, *, hidden_sizes: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.num_inputs, self.num_outputs = num_inputs, num_outputs
        self.hidden_sizes, self.dropout = tuple(hidden_sizes), dropout
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("scale", torch.ones(num_inputs))
        sizes = (num_inputs, *self.hidden_sizes)
        self.hidden = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
                for before, after in pairwise(sizes)
            )
        )
        self.output = nn.Linear(sizes[-1], num_outputs)

    def standardise(self, inputs: torch.Tensor) -> None:
        """Let inputs be shifted and scaled from now on, so that these [B, H] get mean 0 and spread 1."""
        spread = inputs.std(dim=0, correction=0)
        self.mean.copy_(inputs.mean(dim=0))
        self.scale.copy_(torch.where(spread > MIN_SPREAD_SHARE * spread.max(), spread, torch.ones_like(spread)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits [B, N] of inputs [B, H]."""
        directions = nn.functional.normalize(self._standardised(inputs), dim=1) * math.sqrt(self.num_inputs)
        logits: torch.Tensor = self.output(self.hidden(directions))
        return logits

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the last layer would see of inputs [B, H] if their length counted."""
        features: torch.Tensor = self.hidden(self._standardised(inputs))
        return features

    def _standardised(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs - self.mean) / self.scale
