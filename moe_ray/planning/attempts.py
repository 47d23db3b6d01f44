"""Attempts of a shard, and the search for the one example that ends its process."""

import math
from dataclasses import dataclass

from moe_ray.planning.cells import Shard, halves


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptVerdict:
    """What becomes of a shard that failed: shards to run instead of it, or none and the reason to give it up."""

    again: tuple[Shard, ...] = ()
    given_up: str | None = None


@dataclass(slots=True)
class _History:
    """What a whole shard and its parts went through together."""

    num_splits_left: int
    num_failures: int = 0


class Attempts:
    """Counts failures, and halves a shard whose attempts are used up until the example at fault is alone.

    A shard is run whole `max_attempts` times. Then its parts are run once each, and a part that fails is halved again,
    or given up when it is a single cell. One example at fault among n costs log2(n) failures more. A shard is halved
    2 log2(n) times at the most (rounded up), which finds two of them; a part that fails after that is given up as it
    is. So a shard of which every cell fails is over after `max_attempts` + 4 log2(n) failures at the latest.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._histories: dict[str, _History] = {}

    def has_failed(self, shard: str) -> bool:
        """Say whether this shard, or the one that it is a part of, failed before."""
        return shard in self._histories

    def failed(self, shard: Shard, reason: str) -> AttemptVerdict:
        """Count a failure, and say what to do."""
        num_splits = 2 * math.ceil(math.log2(len(shard.cells)))
        history = self._histories.setdefault(shard.id, _History(num_splits_left=num_splits))
        history.num_failures += 1
        if history.num_failures < self._max_attempts:
            return AttemptVerdict(again=(shard,))
        if len(shard.cells) == 1 or not history.num_splits_left:
            return AttemptVerdict(given_up=f"{_whose(shard)} failed {history.num_failures} times; the last: {reason}")
        history.num_splits_left -= 1
        parts = halves(shard)
        self._histories.update((part.id, history) for part in parts)
        return AttemptVerdict(again=parts)


def _whose(shard: Shard) -> str:
    """Name what is given up; failures of the shard that it was cut from are its own too."""
    if len(shard.cells) > 1:
        return f"a part of {len(shard.cells)} cells, or what it was cut from,"
    (cell,) = shard.cells
    sample = f", sample {cell.sample_index}," if cell.sample_index else ""
    return f"example {cell.example_id} of {cell.domain}{sample}"
