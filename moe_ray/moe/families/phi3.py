"""Phi-3 -> as Llama, after its fused query-key-value and gate-up projections are split. PhiMoE differs in normalisation
and expert selection."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from moe_ray.moe.families import targets
from moe_ray.moe.families.base import Ffn, MixtureShape, Read, TensorRole, refuse
from moe_ray.moe.families.llama import Llama

QKV = "self_attn.qkv_proj.weight"
GATE_UP = "mlp.gate_up_proj.weight"


class Phi3(Llama):
    """Refused: longrope (its tables depend on the text length) and partial rotation of heads."""

    model_type = "phi3"

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        kind = dense.rope_parameters["rope_type"]
        if kind != "default":
            raise refuse(dense, f"its rope type {kind} is not known to Mixtral", "choose a variant of the default rope")
        if dense.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
            raise refuse(dense, "it rotates a part of each head, and Mixtral rotates all", "choose another model")
        return super().mixture_config(dense, shape)

    def ffn_sources(self, layer: int) -> Mapping[TensorRole, str]:
        fused = f"model.layers.{layer}.{GATE_UP}"
        return {"gate": fused, "up": fused, "down": f"model.layers.{layer}.mlp.down_proj.weight"}

    def read_ffn(self, read: Read, layer: int) -> Ffn:
        names = self.ffn_sources(layer)
        gate, up = read(names["gate"]).chunk(2)
        return {"gate": gate, "up": up, "down": read(names["down"])}

    def kept(
        self,
        name: str,
        tensor: torch.Tensor,
        dense: Any,
        shape: MixtureShape,  # noqa: ARG002 - the protocol has it
    ) -> Iterator[tuple[str, torch.Tensor]]:
        if name.endswith(QKV):
            key_size = dense.num_key_value_heads * targets.head_size(dense)
            parts = torch.split(tensor, [len(tensor) - 2 * key_size, key_size, key_size])
            yield from zip((name.replace("qkv_proj", f"{kind}_proj") for kind in "qkv"), parts, strict=True)
        elif name.endswith(GATE_UP):
            names = (name.replace("gate_up_proj", f"{kind}_proj") for kind in ("gate", "up"))
            yield from zip(names, tensor.chunk(2), strict=True)
        else:
            yield name, tensor
