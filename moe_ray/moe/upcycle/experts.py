"""Sources of a layer's experts: exact or varied copies of the dense network, or the networks of fine-tunes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from moe_ray.errors import ConfigError
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.families import Expert, Ffn, TensorRole
from moe_ray.moe.families.base import UNIT_AXES

Gates = Callable[[int], torch.Tensor]
"""Returns a decoder layer's gate [num_experts / groups, H], a row for each whole network, of any floating dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Every expert is a copy of the dense network.

    `noise` is the standard deviation of Gaussian noise on each weight, relative to that of its tensor.
    `reinitialised_share` is the share of hidden units, drawn independently for each expert, whose weights are redrawn
    from a normal distribution with their tensor's mean and standard deviation. Identical experts give the gate no
    gradient; use one of the two before training.
    """

    noise: float = 0.0
    reinitialised_share: float = 0.0

    def __post_init__(self) -> None:
        if self.noise < 0 or not 0 <= self.reinitialised_share <= 1:
            raise ConfigError(
                f"noise is {self.noise}, the share of units drawn again {self.reinitialised_share}",
                remedy="noise is 0 or more, the share between 0 and 1",
            )

    @property
    def are_plain(self) -> bool:
        return self.noise == 0 and self.reinitialised_share == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTunes:
    """Expert e is the network of the e-th of `model_dirs`, fine-tunes of the model that is upcycled.

    Differences outside their networks are lost: "refuse" raises an error for them, "report" lists them in the plan and
    keeps the base's tensors.
    """

    model_dirs: tuple[Path, ...]
    on_difference: Literal["refuse", "report"] = "refuse"


def vary(ffn: Ffn, copies: Copies, *, seed: int, layer: int, expert: int) -> Ffn:
    """Return the network of an expert of `copies`. Random numbers depend on seed, layer and expert only."""
    varied: dict[TensorRole, torch.Tensor] = {}
    drawn = _units_drawn_again(ffn, copies, _generator(seed, layer, expert, "units"))
    for role, tensor in ffn.items():
        generator = _generator(seed, layer, expert, role)
        varied[role] = _varied(tensor, UNIT_AXES[role], copies.noise, drawn, generator)
    return varied


def split(ffn: Ffn, groups: int) -> Iterator[Ffn]:
    """Split a network's hidden units into `groups` networks whose mean is the whole; down is multiplied by `groups`."""
    for group in range(groups):
        yield {role: _part(tensor, role, group, groups) for role, tensor in ffn.items()}


def split_expert(expert: Expert, groups: int) -> Iterator[Expert]:
    """Yield `expert` itself, or its parts as experts."""
    if groups == 1:
        yield expert
        return
    for group, part in enumerate(split(expert.ffn, groups)):
        how = f"{expert.how}, part {group + 1} of {groups} of its hidden units, down projection x {groups}"
        yield Expert(ffn=part, source=expert.source, how=how)


def how_copied(copies: Copies) -> str:
    """Describe `copies`, for the record of a tensor."""
    parts = ["copy"]
    if copies.noise:
        parts.append(f"noise of {copies.noise:g} standard deviations")
    if copies.reinitialised_share:
        parts.append(f"{copies.reinitialised_share:.0%} of the hidden units drawn again")
    return ", ".join(parts)


def random_gates(num_rows: int, width: int, seed: int, std: float = 0.02) -> Gates:
    """Return small normal gate weights [num_rows, width] that depend on the seed and the layer only."""
    return lambda layer: torch.randn(num_rows, width, generator=_generator(seed, layer, 0, "gate")) * std


def _generator(seed: int, layer: int, expert: int, role: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(fingerprint([seed, layer, expert, role], num_hex=15), 16))


def _units_drawn_again(ffn: Ffn, copies: Copies, generator: torch.Generator) -> torch.Tensor:
    num_units = len(ffn["up"])
    return torch.randperm(num_units, generator=generator)[: round(copies.reinitialised_share * num_units)]


def _varied(
    tensor: torch.Tensor, axis: int | None, noise: float, drawn: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    values = tensor.float()
    std, mean = (values.std(), values.mean()) if values.numel() > 1 else (0.0, 0.0)
    if noise:
        values = values + torch.randn(values.shape, generator=generator) * (noise * std)
    if axis is not None and len(drawn):
        picked = values.index_select(axis, drawn)
        values = values.clone().index_copy_(axis, drawn, torch.randn(picked.shape, generator=generator) * std + mean)
    return values.to(tensor.dtype)


def _part(tensor: torch.Tensor, role: TensorRole, group: int, groups: int) -> torch.Tensor:
    axis = UNIT_AXES[role]
    if axis is None:
        return tensor
    part = tensor.chunk(groups, dim=axis)[group]
    return part * groups if role == "down" else part
