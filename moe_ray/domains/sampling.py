"""Which examples of a domain are used: by a hash of their ids, never by their position.

Files are often sorted (PubMedQA's test set by its labels), so that a head of one is no sample of it. The order here
depends on the ids alone, and limits are nested: the first 10 examples of a domain are the first 10 of its first 20.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from moe_ray.errors import DataError

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Generic[ItemT]):
    """What a limit drew, as (id, item) pairs in the order of `hash_rank`, and out of how many."""

    pairs: list[tuple[str, ItemT]]
    num_available: int
    num_not_listed: int
    num_listed_but_missing: int


def hash_rank(example_id: str) -> str:
    """Return the key that orders examples: the SHA-256 of the id, in hexadecimal."""
    return hashlib.sha256(example_id.encode()).hexdigest()


def draw(
    items: Iterable[tuple[str, ItemT]], *, limit: int | None, listed: frozenset[str] | None, where: str
) -> Drawn[ItemT]:
    """Draw the first `limit` (id, item) pairs (None: all) of those whose ids are `listed` (None: all).

    Raises `DataError` when two items have one id, or when none is listed.
    """
    by_id = _by_unique_id(items, where)
    available = [example_id for example_id in by_id if listed is None or example_id in listed]
    if listed and by_id and not available:
        raise DataError(
            f"none of the {len(listed)} ids of data.ids_file is in the data, whose ids look like {next(iter(by_id))!r}",
            where=where,
            remedy="check that ids_file lists this data set's ids, one a line or as JSON",
        )
    chosen = sorted(available, key=hash_rank)[:limit]
    return Drawn(
        pairs=[(example_id, by_id[example_id]) for example_id in chosen],
        num_available=len(available),
        num_not_listed=len(by_id) - len(available),
        num_listed_but_missing=0 if listed is None else len(listed) - len(available),
    )


def _by_unique_id(items: Iterable[tuple[str, ItemT]], where: str) -> dict[str, ItemT]:
    by_id: dict[str, ItemT] = {}
    for example_id, item in items:
        if example_id in by_id:
            raise DataError(
                f"two records have the id {example_id!r}",
                where=where,
                remedy="remove one, or name the column that identifies a record (columns: {id: COLUMN})",
            )
        by_id[example_id] = item
    return by_id
