"""Shared by families of moe_ray's own mixture classes, whose networks are two matrices with biases."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from transformers import AutoConfig

from moe_ray import architectures
from moe_ray.moe.families.base import Expert, Ffn, MixtureShape, Piece, PlainFamily, TensorRole
from moe_ray.moe.families.targets import gate_piece

# Fields that describe the dense checkpoint, not the network.
DESCRIPTIVE_FIELDS = frozenset({"model_type", "architectures", "transformers_version", "_name_or_path"})
STACKED_NAMES: Mapping[TensorRole, str] = {
    "up": "up_proj",
    "up_bias": "up_proj_bias",
    "down": "down_proj",
    "down_bias": "down_proj_bias",
}


class OwnFamily(PlainFamily):
    """Layers that are not converted stay dense. A layer has one tensor for each role of all experts."""

    model_type: ClassVar[str]
    layer_prefix: ClassVar[str]
    ffn_names: ClassVar[Mapping[TensorRole, str]]

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        architectures.register()
        target = f"{self.model_type}_moe"
        made = AutoConfig.for_model(
            target,
            **{name: value for name, value in dense.to_dict().items() if name not in DESCRIPTIVE_FIELDS},
            num_experts=shape.num_experts,
            num_experts_per_tok=shape.top_k,
            norm_topk_prob=True,
            moe_intermediate_size=shape.expert_size,
            mlp_only_layers=list(shape.dense_layers),
        )
        made.architectures = [architectures.ARCHITECTURES[target].model_class]
        made.auto_map = architectures.auto_map(target)
        return made

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:  # noqa: ARG002 - the same for all
        return (
            f"transformers has no class for mixtures of {self.model_type}: without this package the checkpoint is"
            " loaded with trust_remote_code=True, by the code beside it; vLLM cannot serve it",
        )

    def ffn_sources(self, layer: int) -> Mapping[TensorRole, str]:
        return {role: f"{self.layer_prefix}.{layer}.{name}" for role, name in self.ffn_names.items()}

    def experts(
        self, layer: int, experts: Iterable[Expert], gate: torch.Tensor, shape: MixtureShape
    ) -> Iterator[Piece]:
        """Yield the gate and, for all experts, up_proj [E, I, H], down_proj [E, H, I] and their biases."""
        prefix, sources = f"{self.layer_prefix}.{layer}.mlp", self.ffn_sources(layer)
        yield gate_piece(f"{prefix}.gate.weight", gate)
        stacked, origins = _stack(experts, shape.num_experts)
        names = ", ".join(sorted({source for source, _ in origins}))
        how = "experts " + "; ".join(f"{e}: {source}, {what}" for e, (source, what) in enumerate(origins))
        for role, tensor in stacked.items():
            yield Piece(
                name=f"{prefix}.experts.{STACKED_NAMES[role]}",
                tensor=tensor,
                source=names,
                source_tensor=sources[role],
                how=how,
            )


def _stack(experts: Iterable[Expert], num_experts: int) -> tuple[Ffn, list[tuple[str, str]]]:
    """Stack the experts' tensors by role, [E, ...], one expert at a time; also return each expert's source and how."""
    rest = iter(experts)
    first = next(rest)
    stacked = {role: tensor.new_empty(num_experts, *tensor.shape) for role, tensor in first.ffn.items()}
    origins = []
    for e, expert in enumerate(chain([first], rest)):
        for role, tensor in expert.ffn.items():
            stacked[role][e] = tensor
        origins.append((expert.source, expert.how))
    return stacked, origins
