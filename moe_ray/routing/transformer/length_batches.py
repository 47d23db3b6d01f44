"""Batches of texts of like length, so that little is padded, in an order that is still random."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

BATCHES_OF_POOL = 64


class LengthBatches(Sampler[list[int]]):
    """The places of rows, batch by batch, drawn anew in each pass.

    Rows are shuffled, sorted by length within pools of 64 batches, and the batches shuffled again: unlike
    transformers' own length grouping, whose batches of a pool follow each other from the longest to the shortest, and
    with the length the label.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._shuffled(len(self._lengths))
        pools = _chunks(order, self.batch_size * BATCHES_OF_POOL)
        sorted_rows = [row for pool in pools for row in sorted(pool, key=self._lengths.__getitem__)]
        batches = _chunks(sorted_rows, self.batch_size)
        yield from (batches[at] for at in self._shuffled(len(batches)))

    def _shuffled(self, num: int) -> list[int]:
        places: list[int] = torch.randperm(num, generator=self._generator).tolist()
        return places


def _chunks(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[at : at + size]) for at in range(0, len(rows), size)]
