"""The interface of a family of dense models that can be upcycled, and its default implementation."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from moe_ray.errors import ModelError

TensorRole = Literal["gate", "up", "down", "up_bias", "down_bias"]
Ffn = Mapping[TensorRole, torch.Tensor]
"""The tensors of a feed-forward network by role, in the layout of torch's Linear: gate, up [I, H], down [H, I], up_bias
[I], down_bias [H]. I is the number of hidden units, H the hidden size; roles that a family lacks are absent."""
Read = Callable[[str], torch.Tensor]
UNIT_AXES: Mapping[TensorRole, int | None] = {"gate": 0, "up": 0, "down": 1, "up_bias": 0, "down_bias": None}
"""The axis of hidden units in each role's tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureShape:
    """The layout of a mixture: `layers` of its `num_layers` decoder layers have `num_experts` experts of `expert_size`
    hidden units each, `top_k` of which are used for a token. The other layers stay dense."""

    num_experts: int
    top_k: int
    expert_size: int
    layers: tuple[int, ...]
    num_layers: int

    @property
    def dense_layers(self) -> tuple[int, ...]:
        return tuple(layer for layer in range(self.num_layers) if layer not in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """An expert's network, with the name of its source checkpoint and the transformation."""

    ffn: Ffn
    source: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A tensor of the mixture and its origin; `source` is None for tensors that come from no checkpoint."""

    name: str
    tensor: torch.Tensor
    source: str | None
    source_tensor: str | None
    how: str


class Family(Protocol):
    """A dense model type, and the mixture class that computes exactly the same when all experts are identical.

    All methods accept tensors on the meta device, for planning. `dense` is the dense model's transformers
    configuration.
    """

    model_type: str

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        """Return the mixture's transformers configuration. Raises `ModelError` if the mixture would not be exact."""
        ...

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:
        """Return warnings about serving the mixture with anything but transformers."""
        ...

    def ffn_size(self, dense: Any) -> int:
        """Return the number of hidden units of a dense layer's network."""
        ...

    def ffn_sources(self, layer: int) -> Mapping[TensorRole, str]:
        """Return the dense checkpoint's tensor for each role of a layer's network; a tensor may hold several roles."""
        ...

    def read_ffn(self, read: Read, layer: int) -> Ffn:
        """Return the network of a dense layer."""
        ...

    def kept(
        self, name: str, tensor: torch.Tensor, dense: Any, shape: MixtureShape
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield a tensor outside the converted networks, or its parts, with their names in the mixture."""
        ...

    def experts(
        self, layer: int, experts: Iterable[Expert], gate: torch.Tensor, shape: MixtureShape
    ) -> Iterator[Piece]:
        """Yield the tensors of a converted layer's gate [num_experts, H] and experts, by their names in the mixture.

        `experts` is iterated once; families with separate tensors for each expert hold one expert at a time.
        """
        ...

    def added(self, dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:
        """Yield tensors that the mixture's class needs and the dense model lacks, such as zero biases."""
        ...


def refuse(dense: Any, what: str, remedy: str) -> ModelError:
    """Return the error for a model that cannot be upcycled exactly."""
    return ModelError(f"cannot be upcycled exactly: {what}", where=f"model type {dense.model_type}", remedy=remedy)


class PlainFamily:
    """Default: one tensor for each role of a network; all other tensors keep their names, and none is added."""

    def ffn_sources(self, layer: int) -> Mapping[TensorRole, str]:
        raise NotImplementedError

    def read_ffn(self, read: Read, layer: int) -> Ffn:
        return {role: read(name) for role, name in self.ffn_sources(layer).items()}

    def kept(
        self,
        name: str,
        tensor: torch.Tensor,
        dense: Any,  # noqa: ARG002 - a hook for subclasses
        shape: MixtureShape,  # noqa: ARG002 - a hook for subclasses
    ) -> Iterator[tuple[str, torch.Tensor]]:
        yield name, tensor

    def added(self, dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:  # noqa: ARG002 - a hook for subclasses
        yield from ()
