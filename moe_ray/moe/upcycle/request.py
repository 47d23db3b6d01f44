"""The request of an upcycling, as stored in its certificate: sufficient to repeat it."""

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
    """Settings of a conversion.

    Each converted layer has `num_experts` experts, `top_k` of which are used for a token. Converted are the layers N-1,
    2N-1, ... for `every` N, or `layers` (from 0), or else all. With `groups` G each network is split into G experts;
    `num_experts` and `top_k` count the parts and are multiples of G. `copied_layers` are converted to plain copies of
    the dense network regardless of `experts`, for classes without dense layers. The seed determines noise and the
    default gates.
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
        """Return the layers to convert, in order. Raises `ConfigError` for layers that do not exist."""
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


# Ten times the largest published mixtures; planning more would take hours.
MAX_EXPERTS = 4096

ExpertsKind = Literal["copies", "noise", "groups", "models"]
GateInit = Literal["random", "prompts", "ridge"]


class Limits(StoredRecord):
    """Limits for each converted layer and for the whole mixture.

    `max_difference` bounds layers of identical experts: the largest difference of hidden states and logits in
    float32, relative to the largest value if that is above 1. The others bound the actual mixture: KL divergence from
    the dense model in nats per token, perplexity relative to the dense model's, and the share of tokens with the same
    most likely next token.
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
    """How gates are initialised. `scale` is the standard deviation of random weights, the length of a prompt gate's
    rows, or the factor of ridge weights; `penalty` is that of ridge regression, relative to the inputs' mean square."""

    init: GateInit = "random"
    scale: float | None = Field(default=None, gt=0)
    penalty: float = Field(default=1e-2, gt=0)


class UpcycleRequest(StoredRecord):
    """The request for a mixture; see `UpcycleSettings`, `Copies` and `FineTunes` for its fields.

    `fine_tunes` are the models whose networks become experts. `texts` is the file for gates and tests (None: built-in
    texts); tests use its first `max_tokens` tokens, at most `max_text_tokens` of each text. `texts_sha256` is the
    file's expected hash. Without `check` nothing is tested.
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
        """Return the settings of the conversion. Raises `ConfigError` for inconsistent fields."""
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
