"""The unit of work: a cell is computed once; a shard is what an actor takes at a time."""

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
    what an interrupted run has is no biased part. The same cells give the same shards everywhere.
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
