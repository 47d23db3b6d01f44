"""The settings of an upcycling, as stored in its certificate: enough to repeat it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from moe_ray.checkpoints.tensors import DEFAULT_MAX_SHARD_BYTES
from moe_ray.errors import ConfigError
from moe_ray.files import StoredRecord
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
                f"{self.num_experts} experts and top_k {self.top_k} are not multiples of {self.groups} groups",
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


# Ten times what any mixture has. More would be planned for hours.
MAX_EXPERTS = 4096

ExpertsKind = Literal["copies", "noise", "groups", "models"]
GateInit = Literal["random", "prompts", "ridge"]


class Limits(StoredRecord):
    """What a converted layer, and the mixture altogether, has to stay within.

    `max_difference` bounds layers of identical experts: the largest difference of hidden states and logits in
    float32, relative to the largest of them where that is above 1. The others bound the mixture as it is: KL
    divergence from the dense model in nats a token, perplexity on the text over the dense model's, and the share of
    tokens after which both find the same next token likeliest.
    """

    max_difference: float = Field(default=1e-5, ge=0)
    max_kl: float = Field(default=0.1, ge=0)
    max_perplexity_ratio: float = Field(default=1.1, gt=0)
    min_agreement: float = Field(default=0.9, ge=0, le=1)

    def exact(self) -> dict[str, float]:
        return dict.fromkeys(("exact_layer_difference", "exact_logit_difference"), self.max_difference)

    def drift(self) -> dict[str, float]:
        return {"kl": self.max_kl, "perplexity_ratio": self.max_perplexity_ratio, "agreement": self.min_agreement}


class GateRequest(StoredRecord):
    """How gates are made. `scale`: the standard deviation of random weights, the length of a prompt gate's rows, what
    ridge weights are multiplied by; `penalty`: of ridge regression, relative to the inputs' mean square."""

    init: GateInit = "random"
    scale: float | None = Field(default=None, gt=0)
    penalty: float = Field(default=1e-2, gt=0)


class UpcycleRequest(StoredRecord):
    """What mixture is asked for; see `UpcycleSettings`, `Copies` and `FineTunes` for what the words mean.

    `fine_tunes` are the models whose networks become experts. `texts` is the file that gates are made from and that
    the mixture is tested on (built-in texts when None): its first `max_tokens` tokens, `max_text_tokens` of a text at
    most. With `texts_sha256` the file must be that one. Without `check` nothing is tested.
    """

    num_experts: int = Field(le=MAX_EXPERTS)
    top_k: int = 2
    every: int | None = None
    layers: list[int] | None = None
    experts: ExpertsKind = "copies"
    noise: float = 0.0
    reinitialised_share: float = 0.0
    groups: int = 1
    fine_tunes: list[str] = Field(default_factory=list)
    on_difference: Literal["refuse", "report"] = "refuse"
    gate: GateRequest = Field(default_factory=GateRequest)
    limits: Limits = Field(default_factory=Limits)
    texts: str | None = None
    texts_sha256: str | None = None
    check: bool = True
    max_tokens: int = Field(default=4096, ge=2)
    max_text_tokens: int = Field(default=512, ge=2)
    seed: int = Field(default=0, ge=0)
    max_shard_bytes: int = Field(default=DEFAULT_MAX_SHARD_BYTES, ge=1)

    def settings(self) -> UpcycleSettings:
        """Return it as the conversion's settings. Raises `ConfigError` for what goes not together."""
        _require_consistent(self)
        return UpcycleSettings(
            num_experts=self.num_experts,
            top_k=self.top_k,
            every=self.every,
            layers=None if self.layers is None else tuple(self.layers),
            experts=self._experts(),
            groups=self.groups,
            seed=self.seed,
            max_shard_bytes=self.max_shard_bytes,
        )

    def _experts(self) -> Copies | FineTunes:
        if self.experts == "models":
            return FineTunes(model_dirs=tuple(Path(path) for path in self.fine_tunes), on_difference=self.on_difference)
        return Copies(noise=self.noise, reinitialised_share=self.reinitialised_share)


def _require_consistent(request: UpcycleRequest) -> None:
    varied = request.noise > 0 or request.reinitialised_share > 0
    for wrong, what, remedy in (
        (
            request.experts == "models" and not request.fine_tunes,
            "experts of no models",
            "name one fine-tune an expert",
        ),
        (
            request.experts != "models" and request.fine_tunes,
            "fine-tunes, and experts of none",
            "choose experts: models",
        ),
        (request.experts == "groups" and request.groups < 2, "groups of one", "choose groups of 2 or more"),
        (request.experts == "noise" and not varied, "noise of 0", "choose noise, or a share to be drawn again"),
        (request.experts == "copies" and varied, "plain copies, and noise", "choose experts: noise"),
        (request.experts == "models" and varied, "experts of models, and noise", "choose one of the two"),
        (
            request.gate.init != "random" and request.texts is None,
            f"{request.gate.init} gates of no texts",
            "name texts",
        ),
    ):
        if wrong:
            raise ConfigError(f"{what} were asked for", where="upcycle", remedy=remedy)
