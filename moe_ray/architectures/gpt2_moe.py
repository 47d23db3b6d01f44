"""GPT-2 with experts in place of its feed-forwards. It travels with its checkpoints, together with experts.py."""

import math
from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, GPT2Config, GPT2Model, GPT2PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
from transformers.utils.output_capturing import OutputRecorder

from .experts import ExpertGate, MixtureConfig, MixtureFeedForward, MixtureForCausalLM, init_mixture


class GPT2MoeConfig(GPT2Config, MixtureConfig):
    """GPT-2's configuration and a mixture's. Cross-attention is refused."""

    model_type = "gpt2_moe"
    _auto_class = "AutoConfig"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.add_cross_attention:
            raise ValueError("gpt2_moe has no cross-attention: set add_cross_attention to false")


class GPT2MoeBlock(GPT2Block):
    """GPT-2's block, whose `mlp` is a mixture or stays dense."""

    def __init__(self, config: GPT2MoeConfig, layer_idx: int) -> None:
        GradientCheckpointingLayer.__init__(self)  # GPT2Block's own would make a dense feed-forward
        inner_size = config.n_inner if config.n_inner is not None else 4 * config.hidden_size
        self.is_mixture = config.is_mixture(layer_idx)
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config=config, layer_idx=layer_idx)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = (
            MixtureFeedForward(
                config,
                intermediate_size=inner_size,
                activation=config.activation_function,
                dropout=config.resid_pdrop,
            )
            if self.is_mixture
            else GPT2MLP(inner_size, config)
        )

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        forced_expert: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if encoder_hidden_states is not None:
            raise ValueError("gpt2_moe has no cross-attention: encoder_hidden_states cannot be given")
        attended, _ = self.attn(
            self.ln_1(hidden_states), past_key_values=past_key_values, attention_mask=attention_mask, **kwargs
        )
        hidden_states = hidden_states + attended
        states = self.ln_2(hidden_states)
        changed: Tensor = self.mlp(states, forced_expert) if self.is_mixture else self.mlp(states)
        return hidden_states + changed


class GPT2MoePreTrainedModel(GPT2PreTrainedModel):
    """What GPT-2's mixture classes share: configuration, initialisation, what can be recorded."""

    config_class = GPT2MoeConfig
    _no_split_modules = ["GPT2MoeBlock"]  # noqa: RUF012 - as transformers writes it
    _can_set_experts_implementation_cached_value = True
    _can_record_outputs = {  # noqa: RUF012 - as transformers writes it
        "hidden_states": GPT2MoeBlock,
        "attentions": OutputRecorder(GPT2Attention, layer_name=".attn", index=1),
        "router_logits": OutputRecorder(ExpertGate, index=0),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        init_mixture(module, std, down_std=std / math.sqrt(2 * self.config.n_layer))


class GPT2MoeModel(GPT2MoePreTrainedModel, GPT2Model):
    """GPT-2's stack of blocks; its forward is GPT-2's own."""

    def __init__(self, config: GPT2MoeConfig) -> None:
        GPT2PreTrainedModel.__init__(self, config)
        self.embed_dim = config.hidden_size
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([GPT2MoeBlock(config, layer_idx=layer) for layer in range(config.num_hidden_layers)])
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()


class GPT2MoeForCausalLM(MixtureForCausalLM, GPT2MoePreTrainedModel, GenerationMixin):
    """GPT-2's mixture with its language modelling head, tied to the embeddings unless the configuration says no."""

    _auto_class = "AutoModelForCausalLM"
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012 - as transformers writes it

    def __init__(self, config: GPT2MoeConfig) -> None:
        super().__init__(config)
        self.transformer = GPT2MoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def decoder_stack(self) -> nn.Module:
        return self.transformer
