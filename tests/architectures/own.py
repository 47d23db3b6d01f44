"""Tiny random dense models of the families that have a mixture class of their own, and mixtures of them.

The conversion here is a second one, written from the definition of the classes, to hold the package's own against.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from moe_ray import architectures

VOCABULARY_SIZE = 61
CONTEXT_LENGTH = 32
PAD, EOS = 2, 1
NUM_EXPERTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A dense configuration with odd sizes, and how its layers' networks are named."""

    config: Callable[[], Any]
    layers: str = "transformer.h"
    up: str = "mlp.c_fc"
    down: str = "mlp.c_proj"
    transposed: bool = False

    def dense(self, seed: int = 0) -> Any:
        """A random dense model whose logits spread widely and whose biases are not zero."""
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(self.config())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.3)
        return model.eval()


def gpt2(**more: Any) -> Any:
    return transformers.GPT2Config(
        vocab_size=VOCABULARY_SIZE, n_positions=CONTEXT_LENGTH, n_embd=24, n_layer=3, n_head=3, n_inner=40,
        initializer_range=0.25, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, **more,
    )  # fmt: skip


def gpt_neo(**more: Any) -> Any:
    return transformers.GPTNeoConfig(
        vocab_size=VOCABULARY_SIZE, max_position_embeddings=CONTEXT_LENGTH, hidden_size=24, num_layers=3, num_heads=3,
        intermediate_size=40, attention_types=[[["global", "local", "local"], 1]], window_size=5,
        initializer_range=0.25, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, **more,
    )  # fmt: skip


def opt(**more: Any) -> Any:
    return transformers.OPTConfig(
        vocab_size=VOCABULARY_SIZE, max_position_embeddings=CONTEXT_LENGTH, hidden_size=24, num_hidden_layers=3,
        num_attention_heads=3, ffn_dim=40, init_std=0.25, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, **more,
    )  # fmt: skip


GPT2 = Case(config=gpt2, transposed=True)
GPT_NEO = Case(config=gpt_neo)
OPT = Case(config=opt, layers="model.decoder.layers", up="fc1", down="fc2")
CASES: Mapping[str, Case] = {"gpt2": GPT2, "gpt_neo": GPT_NEO, "opt": OPT}


def _opt(**more: Any) -> Case:
    return Case(config=lambda: opt(**more), layers=OPT.layers, up=OPT.up, down=OPT.down)


ODD_CASES: Mapping[str, Case] = {
    **CASES,
    "gpt2 untied, inner size by default": Case(
        config=lambda: _changed(gpt2(tie_word_embeddings=False), n_inner=None), transposed=True
    ),
    "gpt2 attention scaled by layer, in float32": Case(
        config=lambda: gpt2(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True), transposed=True
    ),
    "gpt2 relu": Case(config=lambda: gpt2(activation_function="relu"), transposed=True),
    "gpt_neo untied, inner size by default": Case(
        config=lambda: _changed(gpt_neo(tie_word_embeddings=False), intermediate_size=None)
    ),
    "opt normalised after, as 350m": _opt(do_layer_norm_before=False, word_embed_proj_dim=16),
    "opt projected, untied": _opt(word_embed_proj_dim=16, tie_word_embeddings=False),
    "opt without last norm, norms without weights": _opt(
        _remove_final_layer_norm=True, layer_norm_elementwise_affine=False
    ),
    "opt without biases, gelu": _opt(enable_bias=False, activation_function="gelu"),
}


def _changed(config: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def mixture_of(case: Case, *dense: Any, **fields: Any) -> Any:
    """A mixture of `NUM_EXPERTS` experts: copies of the one dense model, or the networks of several in turn.

    Everything but the networks is the first one's; the gates are random and far from even.
    """
    architectures.register()
    torch.manual_seed(7)
    given = {name: value for name, value in dense[0].config.to_dict().items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(
        f"{dense[0].config.model_type}_moe", **{**given, "num_experts": NUM_EXPERTS, **fields}
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    tensors = [one.state_dict() for one in dense]
    model.load_state_dict({name: _value(case, name, old, tensors) for name, old in model.state_dict().items()})
    return model.eval()


def _value(case: Case, name: str, old: torch.Tensor, tensors: list[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    if name.endswith("gate.weight"):
        return torch.randn_like(old)
    if ".experts." not in name:
        return tensors[0][name]
    layer, role = name.split(".mlp.experts.")
    matrix = case.up if role.startswith("up") else case.down
    source = f"{layer}.{matrix}.{'bias' if role.endswith('bias') else 'weight'}"
    own = [tensors[expert % len(tensors)][source] for expert in range(len(old))]
    return torch.stack([one.T if case.transposed and one.dim() == 2 else one for one in own])


def tokens(num_rows: int = 2, length: int = 11, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens that are neither padding nor the end, and a mask: the first row is padded on its left."""
    ids = torch.randint(3, VOCABULARY_SIZE, (num_rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    ids[0, :4], mask[0, :4] = PAD, 0
    return ids, mask
