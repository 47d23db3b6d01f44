"""Which tensor of a gated mixture comes from which tensor of its sources, found out on the meta device."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from moe_ray.errors import ModelError
from moe_ray.moe.records import LayerVerdict
from moe_ray.moe.source import Source

MODEL_PREFIX = "language_model."
GATE_PREFIX = "gating_network."
# A layer's experts: language_model.model.layers.3.mlp.experts.0.up_proj.weight
_EXPERT = re.compile(r"^(?P<layer>.*?\.(?P<number>\d+)\.mlp)\.experts\.(?P<expert>\d+)\.(?P<rest>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTensor:
    """A tensor of the mixture: the source's `dense` one of `expert`, or the first source's where that is None.

    `layer` is that of an expert's tensor. The gate's own have no `dense`.
    """

    name: str
    dense: str | None
    expert: int | None = None
    layer: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """All tensors of a mixture but those that are tied to another. `embedding` is the input embeddings' dense name."""

    tensors: tuple[MergedTensor, ...]
    embedding: str

    @property
    def of_experts(self) -> frozenset[str]:
        """The sources' tensors that go into the feed-forwards of their experts."""
        return frozenset(tensor.dense for tensor in self.tensors if tensor.dense and tensor.expert is not None)

    def verdicts(self) -> list[LayerVerdict]:
        """What a certificate says of the layers: all of them have experts."""
        layers = sorted({tensor.layer for tensor in self.tensors if tensor.layer is not None})
        return [LayerVerdict(layer=layer, state="converted") for layer in layers]


def naming_of(config: Any, first: Source) -> Naming:
    """Build the mixture of `config` without memory and name its tensors by those of the source `first`.

    Raises `ModelError` for an architecture whose feed-forwards cannot be put side by side.
    """
    from moe_ray.architectures.gated_layers import require_mixing_arrives
    from moe_ray.architectures.gated_mixture import GatedMixtureForCausalLM

    try:
        with torch.device("meta"):
            model = GatedMixtureForCausalLM(config)
        require_mixing_arrives(model.language_model)
    except ValueError as error:
        raise ModelError(
            str(error), where=str(first.directory), remedy="merge models of a family whose layers have an mlp"
        ) from error
    tied = set(model.all_tied_weights_keys)
    there = set(first.reader.names())
    tensors = [_tensor(name) for name in model.state_dict() if name not in tied or _tensor(name).dense in there]
    weight = model.get_input_embeddings().weight
    embedding = next(name for name, one in model.named_parameters() if one is weight)
    return Naming(tensors=tuple(tensors), embedding=embedding.removeprefix(MODEL_PREFIX))


def _tensor(name: str) -> MergedTensor:
    if name.startswith(GATE_PREFIX):
        return MergedTensor(name=name, dense=None)
    dense = name.removeprefix(MODEL_PREFIX)
    found = _EXPERT.match(dense)
    if found is None:
        return MergedTensor(name=name, dense=dense)
    parts: Mapping[str, str] = found.groupdict()
    return MergedTensor(
        name=name,
        dense=f"{parts['layer']}.{parts['rest']}",
        expert=int(parts["expert"]),
        layer=int(parts["number"]),
    )
