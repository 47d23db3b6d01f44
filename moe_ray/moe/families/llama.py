"""Llama -> Mixtral if every layer is converted, else Qwen2Moe, which supports dense layers."""

from collections.abc import Iterator
from typing import Any

import torch

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import MixtureShape, Piece
from moe_ray.moe.families.gated import GatedFamily, refuse_biases


class Llama(GatedFamily):
    """Refused: attention_bias (its output projection has one, and neither class has), mlp_bias."""

    model_type = "llama"

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        refuse_biases(dense, "attention_bias", "mlp_bias")
        return (targets.qwen2_moe_config if shape.dense_layers else targets.mixtral_config)(dense, shape)

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:
        return super().cautions(dense, shape) + (targets.qwen2_moe_cautions(dense) if shape.dense_layers else ())

    def expert_names(self, shape: MixtureShape) -> targets.ExpertNames:
        return targets.QWEN_NAMES if shape.dense_layers else targets.MIXTRAL_NAMES

    def added(self, dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:
        if shape.dense_layers:
            yield from targets.zero_biases(dense, shape, dtype)
            yield from targets.zero_shared_experts(dense, shape, dtype)
