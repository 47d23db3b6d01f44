"""A small classifier whose tokens pass through experts, without attention. It travels with its checkpoints.

Embedding, then blocks of a norm, a gate and experts around a residual stream, the mean over a text's tokens, a linear
head. What an expert does to a class is then a sum over tokens, which makes the class fit for studies of specialisation.
"""

from typing import Any

import torch
import transformers.initialization as init
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .experts import MixtureConfig, MixtureFeedForward, init_mixture


class TokenMixtureConfig(MixtureConfig):
    """`hidden_size` is that of an embedding, `moe_intermediate_size` that of an expert.

    `max_position_embeddings` is the length that texts had in training; positions themselves do not count.
    """

    model_type = "token_mixture"
    _auto_class = "AutoConfig"

    vocab_size: int = 2048
    hidden_size: int = 32
    moe_intermediate_size: int | None = 64
    num_hidden_layers: int = 1
    max_position_embeddings: int = 512
    initializer_range: float = 0.1


class TokenMixtureBlock(nn.Module):
    """Gate and experts behind a norm, beside the residual stream."""

    def __init__(self, config: TokenMixtureConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.mlp = MixtureFeedForward(
            config, intermediate_size=int(config.moe_intermediate_size or config.hidden_size), activation="gelu"
        )

    def forward(self, states: Tensor) -> Tensor:
        changed: Tensor = self.mlp(self.norm(states))
        return states + changed


class TokenMixtureForSequenceClassification(PreTrainedModel):
    """Classifies a text by the mean of its tokens' states. Shapes: B rows, C classes."""

    config_class = TokenMixtureConfig
    base_model_prefix = "layers"
    _auto_class = "AutoModelForSequenceClassification"
    _can_set_experts_implementation_cached_value = True

    def __init__(self, config: TokenMixtureConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([TokenMixtureBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        init_mixture(module, std)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        **_kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits [B, C]. Tokens whose mask is 0 do not count."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.embed_tokens(input_ids)
        for layer in self.layers:
            states = layer(states)
        weights = mask.to(states.dtype)[..., None]
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return SequenceClassifierOutput(logits=self.score(self.norm(mean)))
