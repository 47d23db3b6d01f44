"""Shared by families whose layers have gate_proj, up_proj and down_proj under Llama's names."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from moe_ray.moe.families.base import Expert, MixtureShape, Piece, PlainFamily, TensorRole, refuse
from moe_ray.moe.families.targets import QWEN_NAMES, ExpertNames, separate_experts

GATED_ROLES: tuple[TensorRole, ...] = ("gate", "up", "down")


class GatedFamily(PlainFamily):
    """Separate tensors for each expert, with Qwen's names."""

    def ffn_size(self, dense: Any) -> int:
        return int(dense.intermediate_size)

    def ffn_sources(self, layer: int) -> Mapping[TensorRole, str]:
        return {role: f"model.layers.{layer}.mlp.{role}_proj.weight" for role in GATED_ROLES}

    def expert_names(self, shape: MixtureShape) -> ExpertNames:  # noqa: ARG002 - a hook for subclasses
        return QWEN_NAMES

    def experts(
        self, layer: int, experts: Iterable[Expert], gate: torch.Tensor, shape: MixtureShape
    ) -> Iterator[Piece]:
        names = self.expert_names(shape)
        return separate_experts(names, f"model.layers.{layer}", self.ffn_sources(layer), experts, gate)

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:  # noqa: ARG002 - a hook for subclasses
        return vllm_cautions(dense)


def vllm_cautions(dense: Any) -> tuple[str, ...]:
    """Return warnings about configurations that vLLM's classes of these mixtures (as of 2026) silently ignore.

    Their expert kernels and Qwen2Moe's networks support silu only. GraniteMoe and FlexOlmo have no attention biases
    there, and Qwen3Moe none on the output projection; bias tensors without a parameter are skipped.
    """
    cautions = []
    if dense.hidden_act != "silu":
        cautions.append(
            f"vLLM's classes of this mixture know the activation silu alone, and this is {dense.hidden_act}"
        )
    if getattr(dense, "attention_bias", False):
        cautions.append("vLLM's class of this mixture drops attention biases that it has no place for")
    return tuple(cautions)


def refuse_biases(dense: Any, *names: str) -> None:
    """Raise `ModelError` if the model has biases that the mixture's class lacks."""
    for name in names:
        if getattr(dense, name, False):
            raise refuse(dense, f"it has {name}, and the mixture's class has no such biases", "choose a model without")


def refuse_dense_layers(dense: Any, shape: MixtureShape) -> None:
    """Raise `ModelError` unless every layer is converted."""
    if shape.dense_layers:
        raise refuse(
            dense,
            f"its mixture class has experts in every layer, and layers {list(shape.dense_layers)} would stay dense",
            "convert all layers; identical copies as experts leave a layer as it is",
        )
