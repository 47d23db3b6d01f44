"""How much memory a model needs on a device, estimated from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from moe_ray.architectures.shapes import (
    DecoderShape,
    cache_bytes_per_token,
    decoder_shape,
    number_bytes,
    parameter_groups,
)
from moe_ray.checkpoints.identity import Checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.registry import settings_class

GIB = 1 << 30
# What a CUDA context and the libraries' workspaces take before any weight is there.
DEVICE_OVERHEAD_BYTES = 1 * GIB
# Activations and fragmentation, as a share of the weights.
ACTIVATION_SHARE = 0.1
# What bitsandbytes makes of a parameter in a linear layer: 4 bits, and a float32 scale for each block of 64; or 8 bits,
# and a float32 scale for each row, which depends on the row's length.
FOUR_BIT_BYTES = 0.5 + 4 / 64
EIGHT_BIT_BYTES = 1.0
SCALE_BYTES = 4
# Where no config tells the embeddings from the rest. Rough, and on the safe side.
QUANTIZED_BYTES = {"8bit": 1.15, "4bit": 0.7}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes that one copy of a model needs on its device; `weights_bytes` is None when its size is unknown."""

    weights_bytes: int | None
    cache_bytes: int
    cache_bytes_per_token: int
    total_bytes: int | None


class ModelUse(NamedTuple):
    """How a copy of a model is used: tokens of the longest row, prompt and answer, and rows at once."""

    context_tokens: int
    concurrency: int


def estimate_memory(
    checkpoint: Checkpoint, model: ModelConfig, use: ModelUse, *, max_cache_bytes: int
) -> MemoryEstimate:
    """Estimate the memory of one copy: weights, the cache of its rows at once, activations, overhead.

    The cache is that of `use.concurrency` rows, at most `max_cache_bytes`, as the engine forms its batches, and at
    least one row; where no config tells, all of `max_cache_bytes`.
    """
    engine = settings_class(model.engine)
    if not engine.has_files:
        size = engine.size_bytes(model)
        return MemoryEstimate(weights_bytes=size, cache_bytes=0, cache_bytes_per_token=0, total_bytes=size or None)
    per_token = cache_bytes_per_token(checkpoint.config or {}, model.dtype)
    row_bytes = per_token * use.context_tokens
    cache = max(row_bytes, min(use.concurrency * row_bytes, max_cache_bytes)) if per_token else max_cache_bytes
    if checkpoint.num_parameters is None:
        return MemoryEstimate(weights_bytes=None, cache_bytes=cache, cache_bytes_per_token=per_token, total_bytes=None)
    weights = planned_weights_bytes(checkpoint.num_parameters, checkpoint.config, model)
    total = weights + cache + int(weights * ACTIVATION_SHARE) + DEVICE_OVERHEAD_BYTES
    return MemoryEstimate(weights_bytes=weights, cache_bytes=cache, cache_bytes_per_token=per_token, total_bytes=total)


def planned_weights_bytes(num_parameters: int, config: Mapping[str, Any] | None, model: ModelConfig) -> int:
    """Bytes of `num_parameters` as this model is loaded.

    Quantization shrinks linear layers alone: embeddings, the output layer and the experts of a mixture (which are no
    linear layers to transformers) keep their dtype.
    """
    if model.quantization == "none":
        return int(num_parameters * number_bytes(config or {}, model.dtype))
    shape, groups = decoder_shape(config or {}), parameter_groups(config or {})
    if shape is None or groups is None:
        return int(num_parameters * QUANTIZED_BYTES[model.quantization])
    num_kept = min(num_parameters, groups.embeddings + groups.experts)
    kept = num_kept * number_bytes(config or {}, model.dtype)
    return int(kept + (num_parameters - num_kept) * _quantized_bytes(shape, model))


def _quantized_bytes(shape: DecoderShape, model: ModelConfig) -> float:
    """Bytes of one parameter of a linear layer, with its share of the scales."""
    if model.quantization == "4bit":
        return FOUR_BIT_BYTES
    return EIGHT_BIT_BYTES + SCALE_BYTES / shape.hidden_size
