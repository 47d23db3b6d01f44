"""The unit of work: a cell is computed once; a shard is what an actor takes at a time, and may fail a few times."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from moe_ray.fingerprint import fingerprint
from moe_ray.prompts.messages import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """(model, example, decoding): one answer to compute. `kind` names one of `moe_ray.planning.kinds.KINDS`.

    `sample_index` is 0 where a kind draws no samples.
    """

    key: str
    kind: str
    model: str
    domain: str
    example_id: str
    sample_index: int
    max_new_tokens: int
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Cells of one model and one kind, computed together and committed together."""

    id: str
    model: str
    cells: tuple[Cell, ...]


def make_shards(cells: Iterable[Cell], shard_size: int) -> list[Shard]:
    """Split `cells` into shards of at most `shard_size`, one model and one kind each.

    Cells go in the order of their keys, which are hashes: every shard is a random sample of its model's work, so that
    an interrupted run is an unbiased sample. The same cells give the same shards everywhere.
    """
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.model, cell.kind].append(cell)
    shards = []
    for (model, _), members in groups.items():
        members.sort(key=lambda cell: cell.key)
        for start in range(0, len(members), shard_size):
            shards.append(_shard(model, tuple(members[start : start + shard_size])))
    return shards


def halves(shard: Shard) -> tuple[Shard, Shard]:
    """Return a shard of two or more cells as two, in their order. The first is the larger by at most one cell."""
    middle = (len(shard.cells) + 1) // 2
    return _shard(shard.model, shard.cells[:middle]), _shard(shard.model, shard.cells[middle:])


def _shard(model: str, cells: tuple[Cell, ...]) -> Shard:
    return Shard(id=fingerprint([cell.key for cell in cells]), model=model, cells=cells)


def missing_shards(shards: Sequence[Shard], done: Collection[str]) -> list[Shard]:
    """Return the shards with cells that are not in `done`, cut down to those cells.

    A shard is committed whole, so after a crash it is whole here again, and its batches repeat.
    """
    missing = []
    for shard in shards:
        cells = tuple(cell for cell in shard.cells if cell.key not in done)
        if len(cells) == len(shard.cells):
            missing.append(shard)
        elif cells:
            missing.append(_shard(shard.model, cells))
    return missing


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptVerdict:
    """How to continue after a failure: shards to run next, or none and the reason why the shard is given up."""

    retries: tuple[Shard, ...] = ()
    given_up: str | None = None


@dataclass(slots=True)
class _History:
    """Failures of a shard and its parts, counted together."""

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
            return AttemptVerdict(retries=(shard,))
        if len(shard.cells) == 1 or not history.num_splits_left:
            return AttemptVerdict(given_up=f"{_whose(shard)} failed {history.num_failures} times; the last: {reason}")
        history.num_splits_left -= 1
        parts = halves(shard)
        self._histories.update((part.id, history) for part in parts)
        return AttemptVerdict(retries=parts)


def _whose(shard: Shard) -> str:
    """Name what is given up; failures of the shard that it was cut from are its own too."""
    if len(shard.cells) > 1:
        return f"a part of {len(shard.cells)} cells, or what it was cut from,"
    (cell,) = shard.cells
    sample = f", sample {cell.sample_index}," if cell.sample_index else ""
    return f"example {cell.example_id} of {cell.domain}{sample}"
