"""Tiny random mixtures of native families of transformers. Sizes differ, so that mixed-up axes show."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.specialisation.texts import SourceText
from moe_ray.specialisation.tokens import EncodedText

VOCABULARY_SIZE = 128
NUM_EXPERTS, TOP_K = 6, 2

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "num_experts_per_tok": TOP_K,
}
ROUTED = {"n_routed_experts": NUM_EXPERTS, "moe_intermediate_size": 16}
GROUPED = {**ROUTED, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0}
LATENT = {
    **GROUPED, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip

EXPERTS = {"num_experts": NUM_EXPERTS, "moe_intermediate_size": 16}
FULL_ATTENTION = {"layer_types": ["full_attention"] * 2}

FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": NUM_EXPERTS},
    "olmoe": {"num_experts": NUM_EXPERTS},
    "flex_olmo": {"num_experts": NUM_EXPERTS},
    "qwen2_moe": {"num_experts": NUM_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"num_experts": NUM_EXPERTS, "moe_intermediate_size": 16, "head_dim": 8},
    "gpt_oss": {"num_local_experts": NUM_EXPERTS, "head_dim": 8},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "glm4_moe": {**GROUPED, "head_dim": 8},
    "dots1": GROUPED,
    "granitemoe": {"num_local_experts": NUM_EXPERTS},
    "granitemoeshared": {"num_local_experts": NUM_EXPERTS, "shared_intermediate_size": 16},
    "jamba": {
        "num_experts": NUM_EXPERTS, "expert_layer_period": 1, "expert_layer_offset": 0, "attn_layer_period": 1,
        "attn_layer_offset": 0, "use_mamba_kernels": False,
    },
    "phimoe": {"num_local_experts": NUM_EXPERTS},
    "ernie4_5_moe": {
        "moe_num_experts": NUM_EXPERTS, "moe_k": TOP_K, "moe_intermediate_size": 16, "moe_layer_start_index": 0,
        "moe_layer_interval": 1, "moe_num_shared_experts": 1,
    },
    "minimax": {"num_local_experts": NUM_EXPERTS, "head_dim": 8, "layer_types": ["full_attention"] * 2},
    "minimax_m2": {"num_local_experts": NUM_EXPERTS, "head_dim": 8},
    "lfm2_moe": {
        "num_experts": NUM_EXPERTS, "moe_intermediate_size": 16, "num_dense_layers": 0,
        "layer_types": ["full_attention"] * 2,
    },
    "afmoe": {
        "num_experts": NUM_EXPERTS, "moe_intermediate_size": 16, "num_dense_layers": 0, "num_shared_experts": 1,
        "head_dim": 8, "layer_types": ["full_attention"] * 2,
    },
    "hunyuan_v1_moe": {"num_experts": NUM_EXPERTS, "moe_topk": TOP_K, "head_dim": 8},
    "solar_open": {**GROUPED, "head_dim": 8},
    "exaone_moe": {
        "num_experts": NUM_EXPERTS, "moe_intermediate_size": 16, "num_shared_experts": 1, "n_group": 1,
        "topk_group": 1, "head_dim": 8, "first_k_dense_replace": 0, "layer_types": ["full_attention"] * 2,
        "mlp_layer_types": ["sparse"] * 2,
    },
    "qwen3_next": {**EXPERTS, "shared_expert_intermediate_size": 16, "head_dim": 8, **FULL_ATTENTION},
    "qwen3_5_moe_text": {**EXPERTS, "shared_expert_intermediate_size": 16, "head_dim": 8, **FULL_ATTENTION},
    "cohere2_moe": {**EXPERTS, "head_dim": 8, "first_k_dense_replace": 0, **FULL_ATTENTION},
    "deepseek_v32": {**LATENT, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8},
    "bailing_hybrid": {**LATENT, "num_experts": NUM_EXPERTS},
    "aria_text": {"moe_num_experts": NUM_EXPERTS, "moe_topk": TOP_K, "moe_num_shared_experts": 1},
    "dbrx": {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": VOCABULARY_SIZE,
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": NUM_EXPERTS, "moe_top_k": TOP_K, "hidden_size": 32},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
    },
}  # fmt: skip

# Experts that differ by more than their weights: by a scale in the router, a table of tokens, experts that do nothing.
UNLIKE_EXPERTS: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        **EXPERTS, "top_k_experts": TOP_K, "enable_moe_block": True, "head_dim": 8, "global_head_dim": 8,
        "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCABULARY_SIZE, "num_kv_shared_layers": 0,
        **FULL_ATTENTION,
    },
    "deepseek_v4": ROUTED,
    "longcat_flash": {
        **LATENT, "n_routed_experts": NUM_EXPERTS - 2, "zero_expert_num": 2, "moe_topk": TOP_K,
        "num_layers": 2, "num_hidden_layers": 4,
        "expert_ffn_hidden_size": 16, "ffn_hidden_size": 16, "head_dim": 8,
    },
}  # fmt: skip
TRACED = {**FAMILIES, **UNLIKE_EXPERTS}


def make(family: str, **changes: Any) -> Any:
    """Return a random model of `family` in float32 and evaluation mode."""
    torch.manual_seed(1)
    given = TRACED[family] if family == "dbrx" else {**BASE, **TRACED[family]}
    config = transformers.AutoConfig.for_model(family, **{**given, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and not parameter.any():  # gates that some families start at zero
                parameter.normal_(std=0.3)
        for name, table in model.named_buffers():
            if name.endswith("tid2eid"):  # a hash router's table from tokens to experts
                table.copy_(torch.stack([torch.randperm(NUM_EXPERTS)[:TOP_K] for _ in range(len(table))]))
    return model.eval()


def rows(num_rows: int = 3, length: int = 12, seed: int = 3) -> torch.Tensor:
    """Return random token ids that are not special [num_rows, length]."""
    return torch.randint(3, VOCABULARY_SIZE, (num_rows, length), generator=torch.Generator().manual_seed(seed))


def loaded(model: Any) -> LoadedModel:
    """Return a model as the engine loads it, without a tokenizer."""
    nothing: Any = None
    return LoadedModel(
        model=model, tokenizer=nothing, speller=nothing, device=torch.device("cpu"), eos_token_ids=frozenset(),
        special_token_ids=frozenset({0, 1, 2}), mark_token_ids=frozenset(), pad_token_id=2, context_length=32,
        rope_switch_length=None, cache_bytes_per_token=0,
        vocabulary_size=model.get_input_embeddings().weight.shape[0],
        forward_arguments=frozenset(inspect.signature(model.forward).parameters), forward_choice={},
    )  # fmt: skip


def encoded(ids: Sequence[Sequence[int]], *, num_masked: int = 1) -> list[EncodedText]:
    """Return texts of these tokens, of which the first ones do not count."""
    return [
        EncodedText(
            source=SourceText(text_id=f"{at:03}", label="ab"[at % 2], text=""),
            token_ids=tuple(row),
            counted=tuple(place >= num_masked for place in range(len(row))),
            is_cut=False,
        )
        for at, row in enumerate(ids)
    ]
