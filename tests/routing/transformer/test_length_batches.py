"""Batches hold texts of like length, every text once in a pass, in another order in each."""

import random
from itertools import pairwise

import pytest

from moe_ray.routing.transformer.fitting import LengthBatches

LENGTHS = random.Random(0).choices(range(3, 257), k=1000)


def padding(batches: list[list[int]]) -> int:
    return sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches) - sum(LENGTHS)


@pytest.mark.parametrize("num_rows", [0, 1, 15, 16, 17, 1000])
def test_each_row_is_drawn_once_in_as_many_batches_as_announced(num_rows: int) -> None:
    sampler = LengthBatches(LENGTHS[:num_rows], 16, seed=0)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(num_rows))
    assert len(batches) == len(sampler)
    assert all(len(batch) <= 16 for batch in batches)


def test_little_is_padded() -> None:
    shuffled = random.Random(1).sample(range(len(LENGTHS)), len(LENGTHS))
    at_random = [shuffled[start : start + 16] for start in range(0, len(LENGTHS), 16)]
    assert padding(list(LengthBatches(LENGTHS, 16, seed=0))) < padding(at_random) / 20


def test_passes_differ_and_follow_from_the_seed() -> None:
    sampler, again, other = (LengthBatches(LENGTHS, 16, seed) for seed in (0, 0, 1))
    first, second = list(sampler), list(sampler)
    assert first != second
    assert [list(again), list(again)] == [first, second]
    assert list(other) != first


def test_lengths_come_in_no_order() -> None:
    means = [sum(LENGTHS[row] for row in batch) / len(batch) for batch in LengthBatches(LENGTHS, 16, seed=0)]
    falls = sum(1 for one, following in pairwise(means) if following < one)
    assert len(means) // 4 < falls < 3 * len(means) // 4
