"""What most families share: every tensor outside the converted networks keeps its name, and none is added."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from moe_ray.moe.families.base import Ffn, MixtureShape, Piece, Read, TensorRole


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
