"""Qwen3 -> Qwen3Moe, with or without dense layers."""

from typing import Any

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import MixtureShape, refuse
from moe_ray.moe.families.gated import GatedFamily


class Qwen3(GatedFamily):
    """Refused: a sliding window in some layers only. Qwen3Moe has it in all layers or in none."""

    model_type = "qwen3"

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        if len(set(dense.layer_types)) > 1:
            raise refuse(
                dense,
                "some of its layers have a sliding window, and Qwen3Moe has one in all layers or in none",
                "choose a model whose layers all use the same attention",
            )
        slides = dense.layer_types[0] == "sliding_attention"
        return targets.mixture_config(
            "qwen3_moe",
            dense,
            ("attention_bias",),
            head_dim=targets.head_size(dense),
            use_sliding_window=slides,
            sliding_window=dense.sliding_window if slides else None,
            **targets.qwen_moe_fields(dense, shape),
        )
