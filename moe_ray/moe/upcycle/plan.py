"""What an upcycling would do, known before anything is written: the layers, the tensors, the bytes, what is refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_ray.errors import ConfigError, ModelError
from moe_ray.moe.families import Family, MixtureShape, Piece, family_of
from moe_ray.moe.records import TensorOrigin
from moe_ray.moe.source import Difference, Source, compare_sources, open_source, read_config
from moe_ray.moe.upcycle.experts import FineTunes, random_gates
from moe_ray.moe.upcycle.recipe import Recipe
from moe_ray.moe.upcycle.settings import UpcycleSettings

NUM_NAMED_DIFFERENCES = 3
# Measured: gates of 4 networks, in bfloat16, tie for one or two tokens in a thousand.
MIXED_PARTS = (
    "in {dtype} the gate's logits of two networks may be equal, and then parts of both answer in place of one whole: in"
    " float32 that does not happen"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcyclePlan:
    """A conversion that can be done. `config` is the mixture's transformers configuration.

    `tensors` says what it will hold and from where; `num_bytes` is the size of its weights. `cautions` are for who
    serves it elsewhere. `differences` are what fine-tunes have otherwise outside their networks, and lose.
    """

    recipe: Recipe
    config: Any
    tensors: tuple[TensorOrigin, ...]
    num_parameters: int
    num_bytes: int
    cautions: tuple[str, ...]
    differences: tuple[Difference, ...]


def plan_upcycle(model_dir: Path, settings: UpcycleSettings) -> UpcyclePlan:
    """Find out what `settings` make of the dense checkpoint in `model_dir`.

    Reads headers alone; of fine-tunes also the tensors that must be alike. Raises `ModelError` for a model of which no
    exact mixture can be made so, and for fine-tunes that are not of one base; `ConfigError` for layers that it has not.
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


def _shape(source: Source, family: Family, settings: UpcycleSettings) -> MixtureShape:
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
    source: Source, family: Family, settings: UpcycleSettings, shape: MixtureShape
) -> tuple[tuple[Source, ...], tuple[Difference, ...]]:
    """The fine-tunes, opened and held against the source outside the networks that they give."""
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
    """The folder's name, numbered where two fine-tunes are called alike."""
    alike = sum(other.name == path.name for other in dirs) > 1
    return f"{path.name}-{number}" if alike else path.name


def _origin(piece: Piece) -> TensorOrigin:
    return TensorOrigin(tensor=piece.name, source=piece.source, source_tensor=piece.source_tensor, how=piece.how)
