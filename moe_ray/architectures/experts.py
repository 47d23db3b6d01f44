"""What the mixtures share whose dense class has a plain two-matrix feed-forward: experts, gate, losses, the head.

It imports torch and transformers alone, because it travels with each checkpoint beside the file of its architecture.
Shapes: T tokens of a batch in a row, H hidden, E experts of a layer, K experts of a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers.initialization as init
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple
from transformers.utils.generic import maybe_autocast

# The same function up to rounding, in one kernel where the other takes eight.
ONE_KERNEL = {"gelu_new": "gelu_pytorch_tanh"}


class MixtureConfig(PreTrainedConfig):
    """The fields that make a dense configuration a mixture's; they are named as Qwen2Moe's.

    Layers in `mlp_only_layers` stay dense. `moe_intermediate_size` is an expert's inner size, by default the dense
    one. With `norm_topk_prob` the weights of a token's experts sum to 1: identical experts are then the dense layer.
    In training with labels, the loss gains `router_aux_loss_coef` x load balancing + `router_z_loss_coef` x z-loss.
    """

    num_experts: int = 4
    num_experts_per_tok: int = 2
    norm_topk_prob: bool = True
    moe_intermediate_size: int | None = None
    mlp_only_layers: list[int] | None = None
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001
    router_z_loss_coef: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.mlp_only_layers = sorted(set(self.mlp_only_layers or []))
        super().__post_init__(**kwargs)
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}, but must be 1 to num_experts ({self.num_experts})"
            )
        unknown = [layer for layer in self.mlp_only_layers if not 0 <= layer < self.num_hidden_layers]
        if unknown:
            raise ValueError(f"mlp_only_layers names {unknown}, but there are {self.num_hidden_layers} layers")

    def is_mixture(self, layer: int) -> bool:
        """Whether this decoder layer has experts."""
        return layer not in (self.mlp_only_layers or [])


@dataclass
class MixtureOutput(MoeCausalLMOutputWithPast):
    """A causal model's output. `aux_loss` and `z_loss` are means over the layers, without their coefficients.

    `router_logits` has one [T, E] for each layer with experts, in their order: dense layers are skipped.
    """

    z_loss: Tensor | None = None


@use_experts_implementation(has_gate=False, has_bias=True)
class Experts(nn.Module):
    """The feed-forwards of a layer in one tensor per matrix: down(act(up(x)))."""

    def __init__(self, config: Any, hidden_size: int, intermediate_size: int, activation: str, use_bias: bool) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.act_fn = ACT2FN[ONE_KERNEL.get(activation, activation)]
        self.up_proj = nn.Parameter(torch.empty(self.num_experts, intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden_size, intermediate_size))
        self.up_proj_bias = nn.Parameter(torch.empty(self.num_experts, intermediate_size)) if use_bias else None
        self.down_proj_bias = nn.Parameter(torch.empty(self.num_experts, hidden_size)) if use_bias else None

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The "eager" implementation: hidden_states [T, H], index and weights [T, K] -> [T, H]."""
        mixed = torch.zeros_like(hidden_states)
        for expert in torch.unique(top_k_index).tolist():
            tokens, places = torch.where(top_k_index == expert)
            answers = self._answer(expert, hidden_states[tokens]) * top_k_weights[tokens, places, None]
            mixed.index_add_(0, tokens, answers.to(mixed.dtype))
        return mixed

    def _answer(self, expert: int, states: Tensor) -> Tensor:
        up_bias = None if self.up_proj_bias is None else self.up_proj_bias[expert]
        down_bias = None if self.down_proj_bias is None else self.down_proj_bias[expert]
        inner = self.act_fn(F.linear(states, self.up_proj[expert], up_bias))
        return F.linear(inner, self.down_proj[expert], down_bias)


class ExpertGate(nn.Module):
    """A linear gate with a softmax, both in float32 whatever the model's dtype or autocast is."""

    def __init__(self, config: Any, hidden_size: int) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.normalise = config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, hidden_size))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [T, E], the chosen experts' weights [T, K] and their indices [T, K]."""
        with maybe_autocast(device_type=states.device.type, enabled=False):
            logits = F.linear(states.float(), self.weight.float())
            weights, index = torch.topk(torch.softmax(logits, dim=-1), self.top_k, dim=-1)
            if self.normalise:
                # One expert's own sum would cancel its gradient: its value is 1 all the same, but the gate learns.
                total = weights.sum(dim=-1, keepdim=True)
                weights = weights / (total.detach() if self.top_k == 1 else total)
        return logits, weights, index


class MixtureFeedForward(nn.Module):
    """Gate and experts in place of a layer's dense feed-forward."""

    def __init__(
        self, config: Any, *, intermediate_size: int, activation: str, dropout: float = 0.0, use_bias: bool = True
    ) -> None:
        super().__init__()
        inner_size = config.moe_intermediate_size or intermediate_size
        self.gate = ExpertGate(config, config.hidden_size)
        experts: Any = Experts(config, config.hidden_size, inner_size, activation, use_bias)
        experts.has_bias = use_bias  # the decorator says it of the class
        self.experts = experts
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: Tensor, forced_expert: int | None = None) -> Tensor:
        """[..., H] -> [..., H]. With `forced_expert`, that expert answers alone, and the gate is not asked."""
        states = hidden_states.reshape(-1, hidden_states.shape[-1])
        if forced_expert is None:
            _, weights, index = self.gate(states)
        else:
            weights = states.new_ones(states.shape[0], 1)
            index = torch.full_like(weights, forced_expert, dtype=torch.long)
        mixed = self.experts(states, index, weights)
        dropped: Tensor = self.dropout(mixed)
        return dropped.view(hidden_states.shape)


def init_mixture(module: nn.Module, std: float, down_std: float | None = None) -> None:
    """Initialise `module` where it is a gate or experts; `down_std` is of the second matrix, by default `std`."""
    if isinstance(module, ExpertGate):
        init.normal_(module.weight, mean=0.0, std=std)
    elif isinstance(module, Experts):
        init.normal_(module.up_proj, mean=0.0, std=std)
        init.normal_(module.down_proj, mean=0.0, std=down_std or std)
        for bias in (module.up_proj_bias, module.down_proj_bias):
            if bias is not None:
                init.zeros_(bias)


def load_balancing_loss(logits: Tensor, top_k: int, mask: Tensor | None = None) -> Tensor:
    """Switch Transformers' loss of one layer (equations 4 to 6): `top_k` when balanced, at most E.

    Tokens where `mask` is 0 do not count.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    chosen = torch.zeros_like(probabilities).scatter_(1, logits.topk(top_k, dim=-1).indices, 1.0)
    shares, means = _mean_over_tokens(chosen, mask), _mean_over_tokens(probabilities, mask)
    return (shares * means).sum() * logits.shape[-1]


def z_loss(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """ST-MoE's loss of one layer: the mean square of the logits' log-sum-exp, which keeps them small."""
    return _mean_over_tokens(torch.logsumexp(logits.float(), dim=-1).square(), mask)


def _mean_over_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean(dim=0)
    weights = mask.to(values.device, values.dtype)
    total: Tensor = torch.tensordot(weights, values, dims=1)
    return total / weights.sum().clamp(min=1)


def token_mask(attention_mask: Any, num_rows: int, num_columns: int) -> Tensor | None:
    """Return which of a batch's own tokens count, [T]; the mask may also cover a cache before them.

    A mask of another form than [rows, columns] says nothing of padding: None, all tokens count.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return None
    return attention_mask[:num_rows, -num_columns:].reshape(-1)


class MixtureForCausalLM(nn.Module):
    """The head of every own architecture: logits, loss, the gates' losses, and one expert alone on request.

    A subclass sets `lm_head` and says in `decoder_stack` which module turns tokens into hidden states.
    """

    _can_set_experts_implementation_cached_value = True
    config: Any
    lm_head: nn.Module
    loss_function: Any
    post_init: Any

    @property
    def decoder_stack(self) -> nn.Module:
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        forced_expert: int | None = None,
        **kwargs: Any,
    ) -> MixtureOutput:
        """`forced_expert`: in every layer with experts, this one answers all tokens alone. Raises ValueError."""
        config = self.config
        if forced_expert is not None and not 0 <= forced_expert < config.num_experts:
            raise ValueError(f"forced_expert is {forced_expert}, but the experts are 0 to {config.num_experts - 1}")
        collect = config.output_router_logits if output_router_logits is None else output_router_logits
        learn = labels is not None and self.training and (config.router_aux_loss_coef or config.router_z_loss_coef)
        outputs = self.decoder_stack(
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=bool(collect or learn),
            forced_expert=forced_expert,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        result = MixtureOutput(
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=(outputs.get("router_logits") or None) if collect or learn else None,
        )
        mask = token_mask(attention_mask, *outputs.last_hidden_state.shape[:2])
        self._add_losses(result, labels, mask, kwargs)
        return result

    def _add_losses(self, result: Any, labels: Tensor | None, mask: Tensor | None, kwargs: dict[str, Any]) -> None:
        config = self.config
        gates: Sequence[Tensor] = result.router_logits or ()
        if gates:
            device, top_k = result.logits.device, config.num_experts_per_tok
            balancing = [load_balancing_loss(gate, top_k, mask).to(device) for gate in gates]
            result.aux_loss = torch.stack(balancing).mean()
            result.z_loss = torch.stack([z_loss(gate, mask).to(device) for gate in gates]).mean()
        if labels is not None:
            result.loss = self.loss_function(
                logits=result.logits, labels=labels, vocab_size=config.vocab_size, **kwargs
            )
            if gates and self.training:
                self._require_gradients(gates)
                penalty = config.router_aux_loss_coef * result.aux_loss + config.router_z_loss_coef * result.z_loss
                result.loss = result.loss + penalty.to(result.loss.device)

    def _require_gradients(self, gates: Sequence[Tensor]) -> None:
        """Raise `ValueError` when the gates are to learn, but the logits at hand have no way back to them."""
        learning = any(module.weight.requires_grad for module in self.modules() if isinstance(module, ExpertGate))
        if torch.is_grad_enabled() and learning and not any(logits.requires_grad for logits in gates):
            raise ValueError(
                "gradient checkpointing cuts the gates' losses off from the gates: enable it with use_reentrant=False,"
                " or set router_aux_loss_coef and router_z_loss_coef to 0"
            )
