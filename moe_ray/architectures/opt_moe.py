"""OPT with experts in place of its feed-forwards. It travels with its checkpoints, together with experts.py."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, OPTConfig, OPTPreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.opt.modeling_opt import OPTAttention, OPTDecoder, OPTLearnedPositionalEmbedding
from transformers.utils.output_capturing import OutputRecorder

from .experts import ExpertGate, MixtureConfig, MixtureFeedForward, MixtureForCausalLM, init_mixture


class OPTMoeConfig(OPTConfig, MixtureConfig):
    """OPT's configuration and a mixture's."""

    model_type = "opt_moe"
    _auto_class = "AutoConfig"


class OPTMoeDecoderLayer(GradientCheckpointingLayer):
    """OPT's layer, whose feed-forward is a mixture (`mlp`) or stays dense (`fc1`, `fc2`, as OPT names them)."""

    def __init__(self, config: OPTMoeConfig, layer_idx: int) -> None:
        super().__init__()
        hidden_size, use_bias = config.hidden_size, config.enable_bias
        self.is_mixture = config.is_mixture(layer_idx)
        self.dropout = config.dropout
        self.do_layer_norm_before = config.do_layer_norm_before
        self.self_attn = OPTAttention(config=config, layer_idx=layer_idx)
        self.self_attn_layer_norm = _layer_norm(config)
        if self.is_mixture:
            self.mlp = MixtureFeedForward(
                config, intermediate_size=config.ffn_dim, activation=config.activation_function, use_bias=use_bias
            )
        else:
            self.activation_fn = ACT2FN[config.activation_function]
            self.fc1 = nn.Linear(hidden_size, config.ffn_dim, bias=use_bias)
            self.fc2 = nn.Linear(config.ffn_dim, hidden_size, bias=use_bias)
        self.final_layer_norm = _layer_norm(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        forced_expert: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        states = self.self_attn_layer_norm(hidden_states) if self.do_layer_norm_before else hidden_states
        attended, _ = self.self_attn(
            hidden_states=states, past_key_values=past_key_values, attention_mask=attention_mask, **kwargs
        )
        hidden_states = hidden_states + F.dropout(attended, p=self.dropout, training=self.training)
        if not self.do_layer_norm_before:
            hidden_states = self.self_attn_layer_norm(hidden_states)
        states = self.final_layer_norm(hidden_states) if self.do_layer_norm_before else hidden_states
        changed = self.mlp(states, forced_expert) if self.is_mixture else self.fc2(self.activation_fn(self.fc1(states)))
        hidden_states = hidden_states + F.dropout(changed, p=self.dropout, training=self.training)
        return hidden_states if self.do_layer_norm_before else self.final_layer_norm(hidden_states)


class OPTMoePreTrainedModel(OPTPreTrainedModel):
    """What OPT's mixture classes share: configuration, initialisation, what can be recorded."""

    config_class = OPTMoeConfig
    _no_split_modules = ["OPTMoeDecoderLayer"]  # noqa: RUF012 - as transformers writes it
    _can_set_experts_implementation_cached_value = True
    _can_record_outputs = {  # noqa: RUF012 - as transformers writes it
        "hidden_states": OPTMoeDecoderLayer,
        "attentions": OutputRecorder(OPTAttention, index=1),
        "router_logits": OutputRecorder(ExpertGate, index=0),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_mixture(module, self.config.init_std)


class OPTMoeDecoder(OPTMoePreTrainedModel, OPTDecoder):
    """OPT's stack of layers; its forward is OPT's own."""

    def __init__(self, config: OPTMoeConfig) -> None:
        OPTPreTrainedModel.__init__(self, config)  # OPTDecoder's own would make dense layers
        embedding_size, hidden_size = config.word_embed_proj_dim, config.hidden_size
        self.layerdrop = config.layerdrop
        self.embed_tokens: nn.Module = nn.Embedding(config.vocab_size, embedding_size, config.pad_token_id)
        self.embed_positions = OPTLearnedPositionalEmbedding(config.max_position_embeddings, hidden_size)
        is_projected = embedding_size != hidden_size
        self.project_out = nn.Linear(hidden_size, embedding_size, bias=False) if is_projected else None
        self.project_in = nn.Linear(embedding_size, hidden_size, bias=False) if is_projected else None
        has_final_norm = config.do_layer_norm_before and not config._remove_final_layer_norm
        self.final_layer_norm = _layer_norm(config) if has_final_norm else None
        self.layers = nn.ModuleList([OPTMoeDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()


class OPTMoeModel(OPTMoePreTrainedModel):
    """The decoder under the name that OPT's checkpoints give it."""

    def __init__(self, config: OPTMoeConfig) -> None:
        super().__init__(config)
        self.decoder = OPTMoeDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.embed_tokens = value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.decoder(*args, **kwargs)


class OPTMoeForCausalLM(MixtureForCausalLM, OPTMoePreTrainedModel, GenerationMixin):
    """OPT's mixture with its language modelling head, tied to the embeddings unless the configuration says no."""

    _auto_class = "AutoModelForCausalLM"
    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}  # noqa: RUF012 - see above

    def __init__(self, config: OPTMoeConfig) -> None:
        super().__init__(config)
        self.model = OPTMoeModel(config)
        self.lm_head = nn.Linear(config.word_embed_proj_dim, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @property
    def decoder_stack(self) -> nn.Module:
        stack: nn.Module = self.model.decoder
        return stack


def _layer_norm(config: OPTMoeConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, elementwise_affine=config.layer_norm_elementwise_affine)
