"""Mixture classes that several families are converted to: their configurations and tensor names.

The names are those that transformers' save_pretrained writes for these classes, and that vLLM's loaders map
(vllm/model_executor/models/mixtral.py: experts.E.w1/w3/w2; qwen2_moe.py and qwen3_moe.py: experts.E.gate_proj/up_proj/
down_proj). vLLM's Qwen2Moe has further requirements: its query, key and value projections always have biases, and it
fails on a shared expert's tensors if shared_expert_intermediate_size is 0. Therefore zero biases are written, and a
shared expert of zeros, which adds exactly zero and gets no gradient.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from moe_ray.moe.families.base import Expert, MixtureShape, Piece, TensorRole

COMMON_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "attention_dropout",
    "rope_parameters",
    "dtype",
)
# Divisible by all usual tensor-parallel sizes.
SHARED_EXPERT_SIZE = 16
ZEROS = "zeros, which change nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """Names inside a layer, for classes with separate experts: of the gate, and of each role of expert {e}."""

    gate: str
    expert: Mapping[TensorRole, str]


MIXTRAL_NAMES = ExpertNames(
    gate="block_sparse_moe.gate.weight",
    expert={
        "gate": "block_sparse_moe.experts.{e}.w1.weight",
        "up": "block_sparse_moe.experts.{e}.w3.weight",
        "down": "block_sparse_moe.experts.{e}.w2.weight",
    },
)
QWEN_NAMES = ExpertNames(
    gate="mlp.gate.weight",
    expert={
        "gate": "mlp.experts.{e}.gate_proj.weight",
        "up": "mlp.experts.{e}.up_proj.weight",
        "down": "mlp.experts.{e}.down_proj.weight",
    },
)


def separate_experts(
    names: ExpertNames, prefix: str, sources: Mapping[TensorRole, str], experts: Iterable[Expert], gate: torch.Tensor
) -> Iterator[Piece]:
    """Yield the gate and each expert's tensors under `names`, inside the layer `prefix`."""
    yield gate_piece(f"{prefix}.{names.gate}", gate)
    for e, expert in enumerate(experts):
        for role, tensor in expert.ffn.items():
            yield Piece(
                name=f"{prefix}.{names.expert[role].format(e=e)}",
                tensor=tensor,
                source=expert.source,
                source_tensor=sources[role],
                how=expert.how,
            )


def gate_piece(name: str, gate: torch.Tensor) -> Piece:
    return Piece(name=name, tensor=gate, source=None, source_tensor=None, how="gate")


def mixture_config(model_type: str, dense: Any, fields: Sequence[str] = (), **more: Any) -> Any:
    """Return a configuration of a transformers class: the common fields, `fields` of `dense`, and `more`."""
    taken = {field: getattr(dense, field) for field in (*COMMON_FIELDS, *fields)}
    made = AutoConfig.for_model(model_type, **taken, **more)
    made.architectures = [_causal_class(model_type)]
    return made


def _causal_class(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])


def head_size(dense: Any) -> int:
    return int(getattr(dense, "head_dim", None) or dense.hidden_size // dense.num_attention_heads)


def mixtral_config(dense: Any, shape: MixtureShape) -> Any:
    """Return a Mixtral configuration: experts in every layer, and the dense model's sliding window, if any."""
    return mixture_config(
        "mixtral",
        dense,
        head_dim=head_size(dense),
        sliding_window=getattr(dense, "sliding_window", None),
        intermediate_size=shape.expert_size,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
    )


def qwen2_moe_config(dense: Any, shape: MixtureShape) -> Any:
    """Return a Qwen2Moe configuration, with explicit layer types, as its default pattern differs."""
    window = getattr(dense, "sliding_window", None)
    given = getattr(dense, "layer_types", None)
    kinds = given or ["full_attention" if window is None else "sliding_attention"] * shape.num_layers
    return mixture_config(
        "qwen2_moe",
        dense,
        head_dim=head_size(dense),
        qkv_bias=True,
        use_sliding_window=window is not None,
        sliding_window=window,
        layer_types=list(kinds),
        **qwen_moe_fields(dense, shape),
        shared_expert_intermediate_size=SHARED_EXPERT_SIZE,
    )


def qwen_moe_fields(dense: Any, shape: MixtureShape) -> dict[str, Any]:
    """Return the fields on experts that Qwen2Moe and Qwen3Moe share."""
    return {
        "intermediate_size": dense.intermediate_size,
        "moe_intermediate_size": shape.expert_size,
        "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.top_k,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(shape.dense_layers),
    }


def qwen2_moe_cautions(dense: Any) -> tuple[str, ...]:
    """vLLM's Qwen2Moe assumes heads of size hidden_size / heads, and ignores layer_types."""
    cautions = []
    if head_size(dense) * dense.num_attention_heads != dense.hidden_size:
        cautions.append("vLLM's Qwen2Moe takes heads of hidden_size / num_attention_heads, which these are not")
    if getattr(dense, "sliding_window", None) is not None:
        cautions.append("vLLM's Qwen2Moe does not read layer_types: texts longer than the window may differ there")
    return tuple(cautions)


def zero_biases(dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:
    """Yield zero biases for every layer's query, key and value projections."""
    head = head_size(dense)
    heads = {"q": dense.num_attention_heads, "k": dense.num_key_value_heads, "v": dense.num_key_value_heads}
    for layer in range(shape.num_layers):
        for kind, num_heads in heads.items():
            yield _zeros(f"model.layers.{layer}.self_attn.{kind}_proj.bias", (num_heads * head,), dtype)


def zero_shared_experts(dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:
    """Yield a shared expert of zeros and its gate for every converted layer."""
    width, size = dense.hidden_size, SHARED_EXPERT_SIZE
    for layer in shape.layers:
        prefix = f"model.layers.{layer}.mlp.shared_expert"
        yield _zeros(f"{prefix}_gate.weight", (1, width), dtype)
        yield _zeros(f"{prefix}.gate_proj.weight", (size, width), dtype)
        yield _zeros(f"{prefix}.up_proj.weight", (size, width), dtype)
        yield _zeros(f"{prefix}.down_proj.weight", (width, size), dtype)


def _zeros(name: str, size: tuple[int, ...], dtype: torch.dtype) -> Piece:
    return Piece(name=name, tensor=torch.zeros(size, dtype=dtype), source=None, source_tensor=None, how=ZEROS)
