"""Qwen2 (and 2.5): to Qwen2Moe, dense layers or not."""

from collections.abc import Iterator
from typing import Any

import torch

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import MixtureShape, Piece
from moe_ray.moe.families.gated import GatedFamily


class Qwen2(GatedFamily):
    """Its query, key and value biases are the mixture's own; sliding layers keep their places."""

    model_type = "qwen2"

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        return targets.qwen2_moe_config(dense, shape)

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:
        return super().cautions(dense, shape) + targets.qwen2_moe_cautions(dense)

    def added(self, dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:
        return targets.zero_shared_experts(dense, shape, dtype)
