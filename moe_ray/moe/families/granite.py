"""Granite -> GraniteMoe, with its multipliers. All experts are in one tensor, as vLLM's granitemoe.py reads them."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import Expert, MixtureShape, Piece
from moe_ray.moe.families.gated import GatedFamily, refuse_biases, refuse_dense_layers

MULTIPLIERS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")


class Granite(GatedFamily):
    """Refused: mlp_bias, and layers that stay dense."""

    model_type = "granite"

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        refuse_biases(dense, "mlp_bias")
        refuse_dense_layers(dense, shape)
        return targets.mixture_config(
            "granitemoe",
            dense,
            ("attention_bias", *MULTIPLIERS),
            intermediate_size=shape.expert_size,
            num_local_experts=shape.num_experts,
            num_experts_per_tok=shape.top_k,
        )

    def experts(
        self, layer: int, experts: Iterable[Expert], gate: torch.Tensor, shape: MixtureShape
    ) -> Iterator[Piece]:
        """Yield the gate, input_linear [E, 2I, H] with gate and up, and output_linear [E, H, I] with down."""
        prefix, sources = f"model.layers.{layer}.block_sparse_moe", self.ffn_sources(layer)
        yield targets.gate_piece(f"{prefix}.router.layer.weight", gate)
        rest = iter(experts)
        first = next(rest)
        inner = first.ffn["gate"].new_empty(shape.num_experts, 2 * shape.expert_size, gate.shape[1])
        outer = first.ffn["gate"].new_empty(shape.num_experts, gate.shape[1], shape.expert_size)
        origins, names = [], set()
        for e, expert in enumerate(chain([first], rest)):
            inner[e, : shape.expert_size], inner[e, shape.expert_size :] = expert.ffn["gate"], expert.ffn["up"]
            outer[e] = expert.ffn["down"]
            origins.append(f"{e}: {expert.source}, {expert.how}")
            names.add(expert.source)
        source = ", ".join(sorted(names))
        how = "experts " + "; ".join(origins)
        gate_up = f"{sources['gate']}, {sources['up']}"
        yield _piece(f"{prefix}.input_linear.weight", inner, source, gate_up, how)
        yield _piece(f"{prefix}.output_linear.weight", outer, source, sources["down"], how)


def _piece(name: str, tensor: torch.Tensor, source: str, source_tensor: str, how: str) -> Piece:
    return Piece(name=name, tensor=tensor, source=source, source_tensor=source_tensor, how=how)
