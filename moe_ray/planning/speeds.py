"""How fast a copy of a model writes, and how large a model is, where the command line or an earlier run says so."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from moe_ray.errors import ConfigError
from moe_ray.planning.checkpoints import Checkpoint
from moe_ray.planning.shards import Shard

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMbB]?)")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one copy of a model does: new tokens a second over its whole batch, and seconds to load."""

    tokens_per_s: float
    load_s: float
    source: str

    def seconds(self, shard: Shard) -> float:
        """Seconds for a shard whose answers all take their limit of new tokens. A likelihood counts as one token."""
        return sum(max(1, cell.max_new_tokens) for cell in shard.cells) / self.tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What one replica did in an earlier run."""

    model: str
    num_tokens: int
    busy_s: float
    load_s: float | None


def measured_speeds(stretches: Iterable[Stretch]) -> dict[str, Speed]:
    """Return the speed of every model that wrote something in an earlier run."""
    by_model: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        by_model.setdefault(stretch.model, []).append(stretch)
    speeds = {}
    for model, own in by_model.items():
        num_tokens, busy_s = sum(one.num_tokens for one in own), sum(one.busy_s for one in own)
        if num_tokens and busy_s > 0:
            loads = [one.load_s for one in own if one.load_s is not None]
            load_s = median(loads) if loads else 0.0
            speeds[model] = Speed(tokens_per_s=num_tokens / busy_s, load_s=load_s, source="measured")
    return speeds


def stated_speeds(texts: Sequence[str], models: Sequence[str]) -> dict[str, Speed]:
    """Read `--speed`: "1500" for every model, "NAME=900" for one; the later and the more special wins."""
    numbers = _by_model(texts, models, option="--speed", example="1500, or NAME=900")
    return {name: Speed(tokens_per_s=number, load_s=0.0, source="stated") for name, number in numbers.items()}


def with_sizes(checkpoints: Mapping[str, Checkpoint], texts: Sequence[str]) -> dict[str, Checkpoint]:
    """Return `checkpoints` with the numbers of parameters that `--size` states: "NAME=3.8B"."""
    sizes = _by_model(texts, list(checkpoints), option="--size", example="NAME=3.8B")
    return {
        name: replace(checkpoint, num_parameters=int(sizes[name]), size_source="--size")
        if name in sizes
        else checkpoint
        for name, checkpoint in checkpoints.items()
    }


def _by_model(texts: Sequence[str], models: Sequence[str], *, option: str, example: str) -> dict[str, float]:
    everywhere: dict[str, float] = {}
    special: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        value = _number(number, option, text, example)
        if not equals:
            everywhere = dict.fromkeys(models, value)
        elif name in models:
            special[name] = value
        else:
            raise ConfigError(f"no model {name!r}", where=option, remedy=f"choose one of {', '.join(models)}")
    return everywhere | special


def _number(text: str, option: str, given: str, example: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if not 0 < value < 1e15:
        raise ConfigError(f"cannot read {given!r}", where=option, remedy=f"write {example}")
    return value
