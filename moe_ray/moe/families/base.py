"""The interface of a family of dense models whose checkpoints can be turned into mixtures."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from moe_ray.errors import ModelError

TensorRole = Literal["gate", "up", "down", "up_bias", "down_bias"]
Ffn = Mapping[TensorRole, torch.Tensor]
"""One feed-forward network, its tensors by role, each as torch's Linear has it: gate, up [I, H], down [H, I], up_bias
[I], down_bias [H]. I is the number of hidden units, H the model's width; a role that a family lacks is absent."""
Read = Callable[[str], torch.Tensor]
UNIT_AXES: Mapping[TensorRole, int | None] = {"gate": 0, "up": 0, "down": 1, "up_bias": 0, "down_bias": None}
"""The axis of each role's tensor that counts hidden units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureShape:
    """How the experts lie in the mixture: in the decoder layers `layers` of `num_layers`, `num_experts` networks of
    `expert_size` hidden units each, `top_k` of which answer a token. The other layers stay dense."""

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
    """One expert's network: the name of the checkpoint it came from, and what was done to it."""

    ffn: Ffn
    source: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One tensor of the mixture, and where it came from; `source` None for what no checkpoint gave."""

    name: str
    tensor: torch.Tensor
    source: str | None
    source_tensor: str | None
    how: str


class Family(Protocol):
    """One dense model type, and the class of mixtures that computes exactly what it does when all experts are alike.

    Every method works on tensors of the meta device too: a plan is made so. `dense` is the dense model's transformers
    configuration.
    """

    model_type: str

    def mixture_config(self, dense: Any, shape: MixtureShape) -> Any:
        """The mixture's transformers configuration. Raises `ModelError` where the mixture could not be exact."""
        ...

    def cautions(self, dense: Any, shape: MixtureShape) -> tuple[str, ...]:
        """What somebody should know who serves the mixture with something else than transformers."""
        ...

    def ffn_size(self, dense: Any) -> int:
        """Hidden units of a dense layer's network."""
        ...

    def ffn_sources(self, layer: int) -> Mapping[TensorRole, str]:
        """The dense checkpoint's tensor that holds each role of a layer's network (one tensor may hold several)."""
        ...

    def read_ffn(self, read: Read, layer: int) -> Ffn:
        """The network of a dense layer."""
        ...

    def kept(
        self, name: str, tensor: torch.Tensor, dense: Any, shape: MixtureShape
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """A tensor that is no converted layer's network, by its name (or names) in the mixture."""
        ...

    def experts(
        self, layer: int, experts: Iterable[Expert], gate: torch.Tensor, shape: MixtureShape
    ) -> Iterator[Piece]:
        """The tensors of a converted layer's gate [num_experts, H] and experts, by their names in the mixture.

        `experts` is gone through once: a family that keeps each expert apart holds one at a time.
        """
        ...

    def added(self, dense: Any, shape: MixtureShape, dtype: torch.dtype) -> Iterator[Piece]:
        """Tensors that the mixture's class wants and the dense model has not, such as biases of zero."""
        ...


def refuse(dense: Any, what: str, remedy: str) -> ModelError:
    """The error for a model of which no exact mixture can be made."""
    return ModelError(f"cannot be upcycled exactly: {what}", where=f"model type {dense.model_type}", remedy=remedy)


class PlainFamily:
    """Reads a layer's network from the tensors that `ffn_sources` names, one a role."""

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
