"""How a mixture comes out of dense checkpoints, tensor by tensor. The same steps make a plan, without any values."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from moe_ray.errors import ConfigError
from moe_ray.moe.families import Expert, Family, MixtureShape, Piece
from moe_ray.moe.families.base import Read
from moe_ray.moe.source import Source
from moe_ray.moe.upcycle.experts import Copies, FineTunes, Gates, how_copied, split_expert, vary
from moe_ray.moe.upcycle.settings import UpcycleSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The dense `source`, the `fine_tunes` whose networks become experts (none for copies), and the mixture's shape."""

    source: Source
    fine_tunes: tuple[Source, ...]
    family: Family
    settings: UpcycleSettings
    shape: MixtureShape

    @property
    def dtype(self) -> torch.dtype:
        """The networks' type, and so that of the tensors that no source gave."""
        return self.source.reader.dtype(self.family.ffn_sources(self.shape.layers[0])["up"])

    def pieces(self, gates: Gates, *, with_values: bool = True) -> Iterator[Piece]:
        """All tensors of the mixture, one after the other. Without values most of them lie on the meta device."""
        dense = self.source.config
        layer_of = {name: layer for layer in self.shape.layers for name in self.family.ffn_sources(layer).values()}
        done: set[int] = set()
        for name in self.source.reader.names():
            layer = layer_of.get(name)
            if layer is None:
                yield from self._kept(name, with_values)
            elif layer not in done:
                done.add(layer)
                experts = self.experts(layer, with_values=with_values)
                yield from self.family.experts(layer, experts, self.gate(gates, layer), self.shape)
        yield from self.family.added(dense, self.shape, self.dtype)

    def experts(self, layer: int, *, with_values: bool = True) -> Iterator[Expert]:
        """The experts of a converted layer, one after the other."""
        networks = self._fine_tuned(layer, with_values) if self._takes_fine_tunes(layer) else None
        for network in networks or self._copied(layer, with_values):
            yield from split_expert(network, self.settings.groups)

    def gate(self, gates: Gates, layer: int) -> torch.Tensor:
        """The gate of a layer as the mixture holds it: [num_experts, H], each row repeated for its network's parts."""
        given, wanted = gates(layer), (self.settings.num_networks, int(self.source.config.hidden_size))
        if tuple(given.shape) != wanted:
            raise ConfigError(
                f"the gate of layer {layer} is {tuple(given.shape)} and must be {wanted}",
                where="gates",
                remedy="give a row for each network (num_experts / groups), as wide as the model",
            )
        rows = given.to(self.dtype)
        if self.settings.groups > 1 and len(torch.unique(rows, dim=0)) < len(rows):
            raise ConfigError(
                f"the gate of layer {layer} has rows alike: parts of several networks would answer in place of a whole",
                where="gates",
                remedy="give each network another row, or ask for no groups",
            )
        return rows.repeat_interleave(self.settings.groups, dim=0)

    def _takes_fine_tunes(self, layer: int) -> bool:
        return bool(self.fine_tunes) and layer not in self.settings.copied_layers

    def _fine_tuned(self, layer: int, with_values: bool) -> Iterator[Expert]:
        for fine_tune in self.fine_tunes:
            ffn = self.family.read_ffn(_read(fine_tune, with_values), layer)
            yield Expert(ffn=ffn, source=fine_tune.name, how="copy")

    def _copied(self, layer: int, with_values: bool) -> Iterator[Expert]:
        asked = self.settings.experts
        copies = Copies() if isinstance(asked, FineTunes) or layer in self.settings.copied_layers else asked
        dense = self.family.read_ffn(_read(self.source, with_values), layer)
        for number in range(self.settings.num_networks):
            varies = with_values and not copies.are_plain
            ffn = vary(dense, copies, seed=self.settings.seed, layer=layer, expert=number) if varies else dense
            yield Expert(ffn=ffn, source=self.source.name, how=how_copied(copies))

    def _kept(self, name: str, with_values: bool) -> Iterator[Piece]:
        tensor = _read(self.source, with_values)(name)
        for new_name, part in self.family.kept(name, tensor, self.source.config, self.shape):
            how = "copy" if new_name == name else "copy of a part"
            yield Piece(name=new_name, tensor=part, source=self.source.name, source_tensor=name, how=how)


def _read(source: Source, with_values: bool) -> Read:
    return source.reader.get if with_values else source.reader.get_empty
