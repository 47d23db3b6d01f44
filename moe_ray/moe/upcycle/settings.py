"""What mixture is asked for."""

from dataclasses import dataclass, field

from moe_ray.errors import ConfigError
from moe_ray.moe.tensors import DEFAULT_MAX_SHARD_BYTES
from moe_ray.moe.upcycle.experts import Copies, FineTunes


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcycleSettings:
    """What mixture is asked for.

    `num_experts` networks per converted layer, `top_k` of which answer a token. Converted are the layers N-1, 2N-1, ...
    for `every` N, or `layers` by their numbers from 0, or else all. With `groups` G each network is cut into G experts
    of a G-th of its hidden units, so that `num_experts` and `top_k` count the cut ones and are multiples of G.
    `copied_layers` are converted to plain copies of the dense network whatever `experts` says: they compute what the
    dense layer does, in classes that have no dense layers. The seed decides noise and the default gates.
    """

    num_experts: int
    top_k: int
    every: int | None = None
    layers: tuple[int, ...] | None = None
    experts: Copies | FineTunes = field(default_factory=Copies)
    groups: int = 1
    copied_layers: tuple[int, ...] = ()
    seed: int = 0
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES

    def __post_init__(self) -> None:
        if self.num_experts < 2 or not 1 <= self.top_k <= self.num_experts:
            raise ConfigError(
                f"{self.top_k} of {self.num_experts} experts are to answer a token",
                where="top_k",
                remedy="choose two experts or more, and a top_k between 1 and their number",
            )
        if self.groups < 1 or self.num_experts % self.groups or self.top_k % self.groups:
            raise ConfigError(
                f"{self.num_experts} experts and top_k {self.top_k} are no multiples of {self.groups} groups",
                where="groups",
                remedy="each network becomes `groups` experts, that answer together: choose multiples",
            )
        if self.every is not None and (self.layers is not None or self.every < 1):
            raise ConfigError(
                f"every {self.every} and layers {self.layers}", where="every", remedy="give one of the two; every >= 1"
            )
        if isinstance(self.experts, FineTunes) and len(self.experts.model_dirs) != self.num_networks:
            raise ConfigError(
                f"{len(self.experts.model_dirs)} fine-tunes for {self.num_networks} networks",
                where="experts",
                remedy="name one fine-tune per network (num_experts / groups)",
            )

    @property
    def num_networks(self) -> int:
        """Whole networks per layer: rows of a gate before they are repeated for the groups."""
        return self.num_experts // self.groups

    def chosen_layers(self, num_layers: int) -> tuple[int, ...]:
        """The layers to convert, of `num_layers`, in order; raises `ConfigError` for layers that are not there."""
        if self.every is not None:
            chosen = list(range(self.every - 1, num_layers, self.every))
        else:
            chosen = sorted(set(range(num_layers) if self.layers is None else self.layers))
        if not chosen or not set(chosen) | set(self.copied_layers) <= set(range(num_layers)):
            raise ConfigError(
                f"layers {chosen} of a model that has layers 0 to {num_layers - 1}",
                where="layers",
                remedy="choose at least one layer that is there; they count from 0",
            )
        return tuple(chosen)
