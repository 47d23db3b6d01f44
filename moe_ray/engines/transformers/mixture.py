"""Which experts of a mixture answer: the settings `expert`, `mode` and `intervention`, checked by its config.json.

Needs no torch, so that `plan` refuses a wrong expert before anything is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_ray.architectures import ARCHITECTURES
from moe_ray.errors import ConfigError, UserError
from moe_ray.formatting import listed
from moe_ray.mixtures.interventions import REPEATABLE_OPERATIONS, Intervention
from moe_ray.mixtures.layers import claimed_experts

GATED = "gated_mixture"
NUM_EXPERTS_KEYS = ("num_experts", "num_local_experts")
MAX_EXPERTS = 4096  # beyond any mixture; a config.json from elsewhere may claim any number
EXPERT_KEY, MODE_KEY = "engine_settings.expert", "engine_settings.mode"
INTERVENTION_KEY = "engine_settings.intervention"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureFacts:
    """What a config.json tells of a model's experts: their names, or their places as names. A dense model has none."""

    model_type: str
    expert_names: tuple[str, ...]
    experts_per_token: int | None

    @property
    def is_gated(self) -> bool:
        """Whether one gate reads the whole prompt; other mixtures choose experts for each token."""
        return self.model_type == GATED

    def require_experts(self, key: str) -> None:
        """Raise `ConfigError`, naming the setting `key`, for a model without experts."""
        if not self.expert_names:
            remedy = f"remove {key}, or name a mixture that moe-ray moe made"
            raise ConfigError(f"{self.model_type} has no experts", where=key, remedy=remedy)

    def expert_index(self, expert: str | int) -> int:
        """Return the place of an expert given by name or place. Raises `ConfigError` naming the experts."""
        self.require_experts(EXPERT_KEY)
        names = self.expert_names
        if expert in names:
            return names.index(str(expert))
        place = int(expert) if str(expert).isdecimal() else -1
        if 0 <= place < len(names):
            return place
        known = f"0 to {len(names) - 1}" + ("" if names[0] == "0" else f", or {', '.join(names)}")
        raise ConfigError(f"there is no expert {expert}", where=EXPERT_KEY, remedy=f"experts are {known}")

    def canonical_expert(self, expert: str | int) -> str | int:
        """Return the expert's name, or its place where it has no other name. Raises `ConfigError`."""
        place = self.expert_index(expert)
        name = self.expert_names[place]
        return place if name == str(place) else name


def mixture_facts(config: Mapping[str, Any]) -> MixtureFacts:
    """Return what `config`, a config.json, tells of its model's experts."""
    num_experts = next((config[key] for key in NUM_EXPERTS_KEYS if isinstance(config.get(key), int)), 0)
    if num_experts > MAX_EXPERTS:
        num_experts = 0
    names = config.get("expert_names")
    if not isinstance(names, list) or len(names) != num_experts:
        names = [f"expert_{place}" if config.get("model_type") == GATED else str(place) for place in range(num_experts)]
    return MixtureFacts(
        model_type=str(config.get("model_type")),
        expert_names=tuple(map(str, names)),
        experts_per_token=config.get("num_experts_per_tok"),
    )


def forward_choice(config: Mapping[str, Any], *, expert: str | int | None, mode: str | None) -> dict[str, Any]:
    """Return the arguments of each forward pass that have `expert` answer alone, or its experts mixed in `mode`.

    Without either there are none. Raises `ConfigError` for a model that has no such choice.
    """
    if expert is None and mode is None:
        return {}
    key = EXPERT_KEY if expert is not None else MODE_KEY
    facts = mixture_facts(config)
    facts.require_experts(key)
    if expert is not None:
        place = facts.expert_index(expert)
        if facts.model_type not in ARCHITECTURES:
            raise ConfigError(
                f"{facts.model_type}, a class of transformers, has no way to let one expert answer alone",
                where=key,
                remedy=f"remove {key}, or name a mixture of {', '.join(sorted(ARCHITECTURES))}",
            )
        return {"forced_expert": place}
    if not facts.is_gated:
        raise ConfigError(f"{facts.model_type} mixes experts for each token", where=key, remedy=f"remove {key}")
    return {"mixture_mode": mode}


def intervention_of(given: object) -> Intervention | None:
    """Return the setting `intervention`, a spelling or a mapping; None for none. Raises `ValueError` for others."""
    if given is None:
        return None
    try:
        found = Intervention.of(given)
    except UserError as error:
        raise ValueError(f"{error.what} ({error.remedy})") from error
    if found.operation not in REPEATABLE_OPERATIONS:
        raise ValueError(f"an engine does not offer {found.operation}, but {listed(REPEATABLE_OPERATIONS)}")
    return found


def require_intervention(config: Mapping[str, Any], intervention: Intervention) -> None:
    """Raise `ConfigError` for experts that `config`, a config.json, rules out. Layers are known once it is loaded."""
    facts, num_experts = mixture_facts(config), claimed_experts(config)
    if facts.is_gated:
        raise ConfigError(
            "its gate decides once for a whole text, and removes no expert from a token",
            where=INTERVENTION_KEY,
            remedy=f"remove {INTERVENTION_KEY}, or let one expert answer alone with {EXPERT_KEY}",
        )
    if not num_experts:
        remedy = f"remove {INTERVENTION_KEY}, or name a mixture"
        raise ConfigError(f"{facts.model_type} has no experts", where=INTERVENTION_KEY, remedy=remedy)
    if intervention.experts[-1] >= num_experts:
        raise ConfigError(
            f"there is no expert {intervention.experts[-1]}",
            where=INTERVENTION_KEY,
            remedy=f"experts are 0 to {num_experts - 1}",
        )
