"""Qwen2 (and 2.5) -> Qwen2Moe, with or without dense layers."""

from collections.abc import Iterator
from typing import Any

import torch

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import MixtureShape, Piece
from moe_ray.moe.families.gated import GatedFamily


class Qwen2(GatedFamily):
    """The mixture has the same query, key and value biases and sliding layers."""

    model_type = "qwen2"

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        return targets.qwen2_moe_config(dense, shape)

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:
        return super().cautions(dense, shape) + targets.qwen2_moe_cautions(dense)

    def added(self, dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:
        return targets.zero_shared_experts(dense, shape, dtype)
