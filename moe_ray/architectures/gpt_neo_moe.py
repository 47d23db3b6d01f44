"""GPT-Neo with experts in place of its feed-forwards. It travels with its checkpoints, together with experts.py."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, GPTNeoConfig, GPTNeoPreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoAttention, GPTNeoMLP
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .experts import ExpertGate, MixtureConfig, MixtureFeedForward, MixtureForCausalLM, init_mixture


class GPTNeoMoeConfig(GPTNeoConfig, MixtureConfig):
    """GPT-Neo's configuration and a mixture's."""

    model_type = "gpt_neo_moe"
    _auto_class = "AutoConfig"


class GPTNeoMoeBlock(GradientCheckpointingLayer):
    """GPT-Neo's block, whose `mlp` is a mixture or stays dense; like it, it also returns the attention weights."""

    def __init__(self, config: GPTNeoMoeConfig, layer_id: int) -> None:
        super().__init__()
        inner_size = config.intermediate_size if config.intermediate_size is not None else 4 * config.hidden_size
        self.is_mixture = config.is_mixture(layer_id)
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attn = GPTNeoAttention(config, layer_id)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = (
            MixtureFeedForward(
                config,
                intermediate_size=inner_size,
                activation=config.activation_function,
                dropout=float(config.resid_dropout),
            )
            if self.is_mixture
            else GPTNeoMLP(inner_size, config)
        )

    def forward(
        self,
        hidden_states: Tensor,
        layer_past: Any = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = False,
        forced_expert: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        attended, attention_weights = self.attn(
            self.ln_1(hidden_states),
            layer_past=layer_past,
            attention_mask=attention_mask,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        states = self.ln_2(hidden_states)
        changed: Tensor = self.mlp(states, forced_expert) if self.is_mixture else self.mlp(states)
        return hidden_states + changed, attention_weights


class GPTNeoMoePreTrainedModel(GPTNeoPreTrainedModel):
    """What GPT-Neo's mixture classes share: configuration, initialisation, what can be recorded."""

    config_class = GPTNeoMoeConfig
    _no_split_modules = ["GPTNeoMoeBlock"]  # noqa: RUF012 - as transformers writes it
    _can_set_experts_implementation_cached_value = True
    _can_set_attn_implementation_cached_value = False  # GPT-Neo chooses its attention's class when it is made
    _can_record_outputs = {  # noqa: RUF012 - as transformers writes it
        "hidden_states": GPTNeoMoeBlock,
        "attentions": OutputRecorder(GPTNeoAttention, index=1),
        "router_logits": OutputRecorder(ExpertGate, index=0),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_mixture(module, self.config.initializer_range)


class GPTNeoMoeModel(GPTNeoMoePreTrainedModel):
    """GPT-Neo's stack of blocks. Its forward is its own, because GPT-Neo's hands its blocks no keywords."""

    def __init__(self, config: GPTNeoMoeConfig) -> None:
        super().__init__(config)
        self.wte: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.drop = nn.Dropout(float(config.embed_dropout))
        self.h = nn.ModuleList([GPTNeoMoeBlock(config, layer_id=layer) for layer in range(config.num_hidden_layers)])
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, new_embeddings: nn.Module) -> None:
        self.wte = new_embeddings

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        forced_expert: int | None = None,
        **kwargs: Any,  # noqa: ARG002 - capture_outputs reads it
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            num_past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None] + num_past
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_states = self.drop(inputs_embeds + self.wpe(position_ids))
        for block in self.h:
            hidden_states, _ = block(
                hidden_states,
                layer_past=past_key_values,
                attention_mask=mask,
                use_cache=use_cache,
                forced_expert=forced_expert,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden_states), past_key_values=past_key_values)


class GPTNeoMoeForCausalLM(MixtureForCausalLM, GPTNeoMoePreTrainedModel, GenerationMixin):
    """GPT-Neo's mixture with its language modelling head, tied to the embeddings unless the configuration says no."""

    _auto_class = "AutoModelForCausalLM"
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012 - as transformers writes it

    def __init__(self, config: GPTNeoMoeConfig) -> None:
        super().__init__(config)
        self.transformer = GPTNeoMoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def decoder_stack(self) -> nn.Module:
        return self.transformer
