"""A layer of a mixture that has experts, as a record, and what a config.json says of experts. Needs no torch."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from moe_ray.files import StoredRecord

EXPERT_COUNT_KEYS = re.compile(r"^(moe_)?(num|n)_(local_|routed_)?experts$")
NO_OP_EXPERTS_KEY = "zero_expert_num"  # of longcat_flash: experts that return what they are given
ScoreKind = Literal["softmax", "sigmoid", "sqrtsoftplus", "probabilities", "unknown"]


class TracedLayer(StoredRecord):
    """A layer with experts. `module` is the name of its experts' module.

    `scores` says how the router's scores become probabilities: a softmax; a sigmoid or the root of a softplus, which
    are normalised here over all experts, as such a router has no distribution; or probabilities that the router returns
    itself. "unknown": the selected weights follow none of them; entropies and margins are absent.
    """

    layer: int
    module: str
    num_experts: int = Field(ge=1)
    top_k: int = Field(ge=1)
    scores: ScoreKind


def claimed_experts(config: Mapping[str, Any]) -> int:
    """Return how many experts a layer has according to `config`, a config.json with its sections; 0 for none."""
    return max(_counts(config), default=0)


def _counts(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _counts(value)
        elif EXPERT_COUNT_KEYS.match(key) and isinstance(value, int):
            yield value + int(config.get(NO_OP_EXPERTS_KEY) or 0)
