"""The shape of a decoder, read from its config.json: dense models, mixtures of transformers, and moe_ray's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from moe_ray.config.schema import dtype_bytes

GATED_MIXTURE = "gated_mixture"
# Larger than any decoder. Guards against config.json files whose sizes would take days to process.
MAX_LAYERS = 1_000
MAX_SIZE = 1 << 31
MAX_SHOWN = 60
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


class ParameterGroups(NamedTuple):
    """A decoder's parameters: input and output embeddings, the matrices of its layers, and those of routed experts.

    An expert that is a feed-forward of its own (a gated mixture's) counts to the layers.
    """

    embeddings: int
    layers: int
    experts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes of a decoder. `num_mixture_layers` of its layers hold `num_experts` routed experts, the others none."""

    vocabulary_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    inner_size: int
    num_inner_matrices: int
    is_tied: bool
    num_experts: int
    num_mixture_layers: int
    expert_size: int
    shared_expert_size: int

    def feed_forward(self, inner_size: int) -> int:
        """Parameters of a feed-forward of this inner size."""
        return self.num_inner_matrices * self.hidden_size * inner_size


def parameters_of_config(config: Mapping[str, Any]) -> int | None:
    """Estimate a decoder's parameter count from its config.json; None for a config without the usual keys."""
    groups = parameter_groups(config)
    return None if groups is None else sum(groups)


def parameter_groups(config: Mapping[str, Any]) -> ParameterGroups | None:
    """Estimate a decoder's parameters by kind; None for a config without the usual keys.

    Attention and MLP matrices, embeddings (tied or not) and experts are counted; norms, biases and gates are not
    (below 0.1 % of any model of a billion).
    """
    shape = decoder_shape(config)
    if shape is None:
        return None
    attention = shape.hidden_size * shape.head_size * 2 * (shape.num_heads + shape.num_kv_heads)
    num_whole = (_first(config, "num_experts") or 1) if config.get("model_type") == GATED_MIXTURE else 1
    dense = (shape.num_layers - shape.num_mixture_layers) * num_whole * shape.feed_forward(shape.inner_size)
    shared = shape.num_mixture_layers * shape.feed_forward(shape.shared_expert_size)
    return ParameterGroups(
        embeddings=shape.vocabulary_size * shape.hidden_size * (1 if shape.is_tied else 2),
        layers=shape.num_layers * attention + dense + shared,
        experts=shape.num_mixture_layers * shape.num_experts * shape.feed_forward(shape.expert_size),
    )


def decoder_shape(config: Mapping[str, Any]) -> DecoderShape | None:
    """Return the shape of a config.json; None for one without the usual keys.

    Raises `ValueError`, naming the key, for a size that is not a whole number within reason.
    """
    text = text_config(config)
    hidden = _first(text, "hidden_size", "n_embd")
    num_layers = _first(text, *LAYER_KEYS)
    vocabulary = _first(text, "vocab_size")
    if not hidden or not num_layers or not vocabulary:
        return None
    num_heads = _first(text, "num_attention_heads", "n_head", "num_heads") or 1
    inner = _first(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    num_experts = _first(text, "num_local_experts", "num_experts") or 1
    return DecoderShape(
        vocabulary_size=vocabulary,
        hidden_size=hidden,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=_first(text, "num_key_value_heads") or num_heads,
        head_size=_first(text, "head_dim") or hidden // num_heads,
        inner_size=inner,
        num_inner_matrices=3 if "hidden_act" in text else 2,
        is_tied=bool(text.get("tie_word_embeddings", "hidden_act" not in text)),
        num_experts=num_experts,
        num_mixture_layers=_num_mixture_layers(text, num_layers) if num_experts > 1 else 0,
        expert_size=_first(text, "moe_intermediate_size") or inner,
        shared_expert_size=_first(text, "shared_expert_intermediate_size") or 0,
    )


def number_bytes(config: Mapping[str, Any], dtype: str) -> int:
    """Return the bytes of one number in `dtype`; "auto" is the config's own."""
    return dtype_bytes(str(config.get("dtype") or config.get("torch_dtype")) if dtype == "auto" else dtype)


def cache_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Return the bytes of keys and values that one token leaves in the cache of all layers; 0 for an unknown shape.

    `dtype` is the experiment's. A dtype that a device forces on the model does not count, so that batches are the same
    on every device. Sliding windows are not taken into account.
    """
    shape = decoder_shape(config)
    if shape is None:
        return 0
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_size * number_bytes(config, dtype)


def _num_mixture_layers(text: Mapping[str, Any], num_layers: int) -> int:
    """Every `decoder_sparse_step`-th layer is a mixture (all by default), except those in `mlp_only_layers`."""
    step, dense = _first(text, "decoder_sparse_step") or 1, text.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise ValueError(f"mlp_only_layers is {_shown(dense)}, not a list")
    return sum((layer + 1) % step == 0 and layer not in dense for layer in range(num_layers))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model: multimodal ones and gated mixtures nest it."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _first(text: Mapping[str, Any], *keys: str) -> int | None:
    """Return the value of the first of `keys` that is present and neither null nor 0."""
    return next((_whole_number(key, text[key]) for key in keys if text.get(key)), None)


def _whole_number(key: str, value: object) -> int:
    largest = MAX_LAYERS if key in LAYER_KEYS else MAX_SIZE
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value // 1:
        raise ValueError(f"{key} is {_shown(value)}, not a whole number")
    if not 0 < value <= largest:
        raise ValueError(f"{key} is {_shown(value)}, not a number from 1 to {largest:,}")
    return int(value)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) <= MAX_SIZE**2 else "a number beyond reason"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
