"""Fine-tunes of one model behind a gate: they share all but their feed-forwards, which are mixed per sequence.

It travels with its checkpoints, together with gated_layers.py and gating_network.py. A gate reads the mean of the
prompt's input embeddings, once: its probabilities are then carried as the keyword `gating_probs`.
Shapes: B sequences, T tokens, H hidden size, K experts.
"""

# ruff: noqa: N803, N806 - capital suffixes name the axes of a tensor

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import transformers.initialization as init
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .gated_layers import Mixing, SelectOne, WeightedSum, put_experts, select_one
from .gating_network import GatingNetwork, mean_embeddings, mean_of_embedded

MixtureMode = Literal["weighted_sum", "select_one"]
NO_LABEL = -100


class GatedMixtureConfig(PreTrainedConfig):
    """The dense model's configuration, and what stands where its feed-forwards were.

    `mixture_mode` weighted_sum mixes the experts' outputs by the gate's probabilities; select_one has the likeliest one
    alone read a sequence. `gate_hidden_sizes` and `gate_dropout` are the gating network's.
    """

    model_type = "gated_mixture"
    _auto_class = "AutoConfig"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}  # noqa: RUF012

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    num_experts: int = 2
    expert_names: list[str] | None = None
    mixture_mode: MixtureMode = "weighted_sum"
    gate_hidden_sizes: list[int] | tuple[int, ...] = ()
    gate_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        assert isinstance(self.text_config, PreTrainedConfig)
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        if self.mixture_mode not in get_args(MixtureMode):
            raise ValueError(f"mixture_mode must be one of {get_args(MixtureMode)}, not {self.mixture_mode!r}")
        if self.num_experts < 2:
            raise ValueError(f"num_experts must be at least 2, not {self.num_experts}")
        if self.expert_names is None:
            self.expert_names = [f"expert_{index}" for index in range(self.num_experts)]
        if len(set(self.expert_names)) != self.num_experts or len(self.expert_names) != self.num_experts:
            raise ValueError(f"expert_names must be {self.num_experts} different names, not {self.expert_names}")


@dataclass
class GatedMixtureOutput(CausalLMOutputWithPast):
    """`gating_probs` [B, K] in float32 are what the next forward pass over the same cache has to be given."""

    gating_probs: Tensor | None = None


class GatedMixtureForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal model of any family whose layers have an `mlp`: Llama, Mistral, Qwen2, Qwen3, GPT-2, GPT-Neo and others.

    With a gate that gives one expert everything, it is that expert's fine-tune, to the last bit.
    """

    config: GatedMixtureConfig
    config_class = GatedMixtureConfig
    _auto_class = "AutoModelForCausalLM"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # A paged cache packs several sequences into one row, which one gate cannot judge.
    _supports_attention_backend = False
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules = ["gating_network"]  # noqa: RUF012 - what is named here is not quantized either
    _keep_in_fp32_modules_strict = ["gating_network"]  # noqa: RUF012

    def __init__(self, config: GatedMixtureConfig) -> None:
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config, trust_remote_code=False)
        put_experts(self.language_model, config.num_experts)
        self.gating_network = GatingNetwork(
            config.get_text_config().hidden_size,
            config.num_experts,
            hidden_sizes=config.gate_hidden_sizes,
            dropout=config.gate_dropout,
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GatingNetwork):
            init.zeros_(module.mean)
            init.ones_(module.scale)

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        gating_probs: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        forced_expert: int | str | None = None,
        mixture_mode: MixtureMode | None = None,
        **kwargs: Any,
    ) -> GatedMixtureOutput:
        """Read sequences with the experts mixed as the gate says.

        The gate reads the prompt: tokens where `attention_mask` [B, T] is 1 and, if given, `prompt_mask` [B, T] is 1;
        without it, where `labels` [B, T] are -100. `gating_probs` [B, K] stand in for what it would say, and
        `forced_expert`, a place or a name, answers alone; a cache that is not empty needs one of the two.
        """
        if forced_expert is None and gating_probs is None:
            self._require_no_past(past_key_values)
            prompt_BT = self._prompt_mask(input_ids, inputs_embeds, attention_mask, labels, prompt_mask)
            gating_probs = self._gating_probs(input_ids, inputs_embeds, prompt_BT)
        elif forced_expert is not None and gating_probs is not None:
            raise ValueError("give gating_probs or forced_expert, not both")
        if gating_probs is not None:
            self._require_shape(gating_probs, input_ids if inputs_embeds is None else inputs_embeds)
        given = {"position_ids": position_ids, "labels": labels}
        outputs = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            logits_to_keep=logits_to_keep,
            mixing=self._mixing(gating_probs, forced_expert, mixture_mode),
            return_dict=True,
            **{name: value for name, value in given.items() if value is not None},
            **kwargs,
        )
        return GatedMixtureOutput(
            loss=outputs.loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            gating_probs=gating_probs,
        )

    @torch.no_grad()
    def get_gating_probs(
        self, prompts: str | Sequence[str] | Tensor, attention_mask: Tensor | None = None, *, tokenizer: Any = None
    ) -> Tensor:
        """Return the gate's probabilities [B, K] for texts, or for token ids [B, T] under their mask.

        Texts are read by `tokenizer`; without one, by that which lies where the model was loaded from.
        """
        if not isinstance(prompts, Tensor):
            prompts, attention_mask = self._read(prompts, tokenizer)
        return self._gating_probs(prompts, None, self._prompt_mask(prompts, None, attention_mask, None, None))

    def expert_index(self, expert: int | str) -> int:
        """Return the place of an expert named by place or by name. Raises `ValueError` naming those there are."""
        names = self.config.expert_names or []
        if isinstance(expert, str) and expert in names:
            return int(names.index(expert))
        if isinstance(expert, int) and 0 <= expert < len(names):
            return expert
        raise ValueError(f"there is no expert {expert!r}; there are 0 to {len(names) - 1}: {', '.join(names)}")

    def _mixing(self, probs_BK: Tensor | None, forced_expert: int | str | None, mode: MixtureMode | None) -> Mixing:
        if forced_expert is not None:
            return SelectOne(chosen=(self.expert_index(forced_expert),))
        assert probs_BK is not None
        match mode or self.config.mixture_mode:
            case "weighted_sum":
                return WeightedSum(weights_BK=probs_BK)
            case "select_one":
                return select_one(probs_BK)
            case other:
                raise ValueError(f"mixture_mode must be weighted_sum or select_one, not {other!r}")

    def _gating_probs(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, prompt_BT: Tensor) -> Tensor:
        """Return the gate's probabilities [B, K] in float32."""
        if inputs_embeds is not None:
            means_BH = mean_of_embedded(inputs_embeds, prompt_BT)
        else:
            assert input_ids is not None
            means_BH = mean_embeddings(self.get_input_embeddings(), input_ids, prompt_BT)
        weight = self.gating_network.output.weight
        with torch.autocast(weight.device.type, enabled=False):
            logits_BK: Tensor = self.gating_network(means_BH.to(weight))
        return logits_BK.softmax(dim=1, dtype=torch.float32)

    def _prompt_mask(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        prompt_mask: Tensor | None,
    ) -> Tensor:
        """Return where the tokens [B, T] are that the gate reads."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of the two")
        given = inputs_embeds[..., 0] if inputs_embeds is not None else input_ids
        assert given is not None
        masks = [attention_mask, prompt_mask]
        if labels is not None and prompt_mask is None:
            masks.append(labels == NO_LABEL)
        prompt_BT = torch.ones(given.shape, dtype=torch.bool, device=given.device)
        for mask in masks:
            if mask is not None and mask.shape != given.shape:
                raise ValueError(f"the gate needs masks of shape {list(given.shape)}, not {list(mask.shape)}")
            prompt_BT &= True if mask is None else mask.to(given.device).bool()
        if not prompt_BT.any(dim=1).all():
            raise ValueError("a sequence has no prompt for the gate to read: give gating_probs or forced_expert for it")
        return prompt_BT

    def _require_shape(self, probs_BK: Tensor, given: Tensor | None) -> None:
        shape = [0 if given is None else len(given), self.config.num_experts]
        if list(probs_BK.shape) != shape:
            raise ValueError(f"gating_probs must be of shape {shape}, not {list(probs_BK.shape)}")

    @staticmethod
    def _require_no_past(past_key_values: Any) -> None:
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            raise ValueError("the cache was filled under a decision: give its gating_probs or forced_expert again")

    def _read(self, texts: str | Sequence[str], tokenizer: Any) -> tuple[Tensor, Tensor]:
        # Without a configuration it would read that of the folder again, whose code is running already.
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(
            self.config.name_or_path, config=self.config, trust_remote_code=False
        )
        rows = [torch.tensor(tokenizer(text).input_ids) for text in ([texts] if isinstance(texts, str) else texts)]
        ids_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths_B1 = torch.tensor([[len(row)] for row in rows])
        mask_BT = torch.arange(ids_BT.shape[1])[None] < lengths_B1
        device = self.get_input_embeddings().weight.device
        return ids_BT.long().to(device), mask_BT.to(device)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """Ask the gate before a prompt is repeated for its beams, or read in pieces; `generate` calls it once."""
        if model_kwargs.get("gating_probs") is None and model_kwargs.get("forced_expert") is None:
            self._require_no_past(model_kwargs.get("past_key_values"))
            embeds, mask = model_kwargs.get("inputs_embeds"), model_kwargs.get("attention_mask")
            ids = input_ids if embeds is None else None
            prompt_BT = self._prompt_mask(ids, embeds, mask, None, model_kwargs.pop("prompt_mask", None))
            model_kwargs["gating_probs"] = self._gating_probs(ids, embeds, prompt_BT)
        return super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
