"""Plan an upcycling without writing anything: layers, tensors, size, checks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_ray.checkpoints.source import SourceCheckpoint, TensorDifference, compare_sources, open_source, read_config
from moe_ray.errors import ConfigError, ModelError
from moe_ray.moe.certificate import TensorOrigin
from moe_ray.moe.families import Expert, Family, MixtureShape, Piece, family_of
from moe_ray.moe.families.base import Read
from moe_ray.moe.upcycle.experts import Copies, FineTunes, Gates, how_copied, random_gates, split_expert, vary
from moe_ray.moe.upcycle.request import UpcycleSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The dense `source`, `fine_tunes` whose networks become experts (none for copies), and the mixture's shape."""

    source: SourceCheckpoint
    fine_tunes: tuple[SourceCheckpoint, ...]
    family: Family
    settings: UpcycleSettings
    shape: MixtureShape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the networks, also used for tensors that come from no source."""
        return self.source.reader.dtype(self.family.ffn_sources(self.shape.layers[0])["up"])

    def pieces(self, gates: Gates, *, with_values: bool = True) -> Iterator[Piece]:
        """Yield all tensors of the mixture; without values, most of them on the meta device."""
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
        """Yield the experts of a converted layer."""
        networks = self._fine_tuned(layer, with_values) if self._takes_fine_tunes(layer) else None
        for network in networks or self._copied(layer, with_values):
            yield from split_expert(network, self.settings.groups)

    def gate(self, gates: Gates, layer: int) -> torch.Tensor:
        """Return a layer's gate in the mixture: [num_experts, H], each row repeated for its network's parts."""
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
                f"the gate of layer {layer} has equal rows: parts of several networks would answer",
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


def _read(source: SourceCheckpoint, with_values: bool) -> Read:
    return source.reader.get if with_values else source.reader.get_empty


NUM_NAMED_DIFFERENCES = 3
# Measured: gates of 4 networks, in bfloat16, tie for one or two tokens in a thousand.
MIXED_PARTS = (
    "in {dtype} the gate's logits of two networks may be equal, and then parts of both answer in place of one whole: in"
    " float32 that does not happen"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcyclePlan:
    """A valid conversion. `config` is the mixture's transformers configuration.

    `tensors` are the mixture's tensors with their origins; `num_bytes` is the size of its weights. `cautions` are
    warnings about serving it elsewhere. `differences` are changes of fine-tunes outside their networks, which are lost.
    """

    recipe: Recipe
    config: Any
    tensors: tuple[TensorOrigin, ...]
    num_parameters: int
    num_bytes: int
    cautions: tuple[str, ...]
    differences: tuple[TensorDifference, ...]


def plan_upcycle(model_dir: Path, settings: UpcycleSettings) -> UpcyclePlan:
    """Plan the upcycling of the dense checkpoint in `model_dir` with `settings`.

    Reads headers only and, of fine-tunes, the tensors that must be equal. Raises `ModelError` for a model that cannot
    be upcycled exactly and for fine-tunes of different bases, and `ConfigError` for layers that do not exist.
    """
    family = family_of(read_config(model_dir).model_type, where=str(model_dir))
    source = open_source(model_dir)
    shape = _shape(source, family, settings)
    config = family.mixture_config(source.config, shape)
    fine_tunes, differences = _fine_tunes(source, family, settings, shape)
    recipe = Recipe(source=source, fine_tunes=fine_tunes, family=family, settings=settings, shape=shape)
    pieces = list(recipe.pieces(random_gates(settings.num_networks, config.hidden_size, 0), with_values=False))
    return UpcyclePlan(
        recipe=recipe,
        config=config,
        tensors=tuple(_origin(piece) for piece in pieces),
        num_parameters=sum(piece.tensor.numel() for piece in pieces),
        num_bytes=sum(piece.tensor.nbytes for piece in pieces),
        cautions=family.cautions(source.config, shape) + _group_cautions(recipe),
        differences=differences,
    )


def _shape(source: SourceCheckpoint, family: Family, settings: UpcycleSettings) -> MixtureShape:
    num_layers, size = int(source.config.num_hidden_layers), family.ffn_size(source.config)
    if size % settings.groups:
        raise ConfigError(
            f"{size} hidden units cannot be cut into {settings.groups} groups",
            where="groups",
            remedy="choose a number of groups that divides them",
        )
    return MixtureShape(
        num_experts=settings.num_experts,
        top_k=settings.top_k,
        expert_size=size // settings.groups,
        layers=settings.chosen_layers(num_layers),
        num_layers=num_layers,
    )


def _fine_tunes(
    source: SourceCheckpoint, family: Family, settings: UpcycleSettings, shape: MixtureShape
) -> tuple[tuple[SourceCheckpoint, ...], tuple[TensorDifference, ...]]:
    """Open the fine-tunes, and compare them with the source outside their converted networks."""
    if not isinstance(settings.experts, FineTunes):
        return (), ()
    dirs = settings.experts.model_dirs
    opened = tuple(open_source(path, name=_name(path, number, dirs)) for number, path in enumerate(dirs))
    given = {name for layer in shape.layers for name in family.ffn_sources(layer).values()}
    found = [difference for one in opened for difference in compare_sources(source, one, given.__contains__)]
    if found and settings.experts.on_difference == "refuse":
        shown = "; ".join(f"{one.source}: {one.tensor} by {one.max_abs:.3g}" for one in found[:NUM_NAMED_DIFFERENCES])
        raise ModelError(
            f"the fine-tunes differ from the base in {len(found)} tensors outside their converted networks ({shown})",
            where=str(source.directory),
            remedy="take fine-tunes of the networks alone, convert all layers, or have the differences reported",
        )
    return opened, tuple(found)


def _group_cautions(recipe: Recipe) -> tuple[str, ...]:
    exact = recipe.settings.groups == 1 or recipe.dtype.itemsize > 2
    return () if exact else (MIXED_PARTS.format(dtype=str(recipe.dtype).removeprefix("torch.")),)


def _name(path: Path, number: int, dirs: tuple[Path, ...]) -> str:
    """Return the folder's name, with a number if several fine-tunes have it."""
    is_shared = sum(other.name == path.name for other in dirs) > 1
    return f"{path.name}-{number}" if is_shared else path.name


def _origin(piece: Piece) -> TensorOrigin:
    return TensorOrigin(tensor=piece.name, source=piece.source, source_tensor=piece.source_tensor, how=piece.how)
