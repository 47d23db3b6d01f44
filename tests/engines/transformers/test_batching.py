"""Batches follow from the work and the limits; halving gives back every row."""

import random

import pytest
import torch

from moe_ray.engines.base import BatchLimits
from moe_ray.engines.transformers.batching import MemoryRule, RowSize, group_batches, is_out_of_memory, run_halving

RULE = MemoryRule(cache_bytes_per_token=10, logits_bytes_per_position=100)
Row = tuple[str, int]


def size(row: Row) -> RowSize:
    return RowSize(num_prompt_tokens=row[1], num_new_tokens=5, num_logits=1)


def grouped(rows: list[Row], limits: BatchLimits) -> list[list[Row]]:
    return group_batches(rows, size=size, name=lambda row: (row[0],), rule=RULE, limits=limits)


def random_rows(num: int) -> list[Row]:
    chance = random.Random(0)
    return [(f"id{index}", chance.randint(1, 40)) for index in range(num)]


def test_batches_keep_to_both_limits_and_lose_no_row() -> None:
    rows = random_rows(200)
    limits = BatchLimits(max_rows=7, cache_memory_bytes=1500)
    batches = grouped(rows, limits)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    for batch in batches:
        num_bytes = len(batch) * ((max(row[1] for row in batch) + 5) * 10 + 100)
        assert len(batch) <= 7
        assert num_bytes <= 1500 or len(batch) == 1


def test_the_longest_prompts_come_first_and_ties_by_id() -> None:
    rows = [("b", 3), ("c", 9), ("a", 3)]
    assert grouped(rows, BatchLimits(max_rows=2, cache_memory_bytes=10**6)) == [[("c", 9), ("a", 3)], [("b", 3)]]


def test_the_order_of_the_rows_does_not_change_the_batches() -> None:
    rows = random_rows(100)
    limits = BatchLimits(max_rows=6, cache_memory_bytes=2000)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert grouped(rows, limits) == grouped(shuffled, limits)


def test_a_row_larger_than_the_memory_gets_a_batch_of_its_own() -> None:
    assert grouped([("a", 50), ("b", 50)], BatchLimits(max_rows=8, cache_memory_bytes=1)) == [[("a", 50)], [("b", 50)]]


def test_rows_that_may_grow_too_long_run_alone() -> None:
    rows = [("a", 50), ("b", 10), ("c", 40), ("d", 12)]
    limits = BatchLimits(max_rows=8, cache_memory_bytes=10**6)
    batches = group_batches(rows, size=size, name=lambda row: (row[0],), rule=RULE, limits=limits, longest_shared=20)
    assert batches == [[("a", 50)], [("c", 40)], [("d", 12), ("b", 10)]]


def test_no_rows_give_no_batches() -> None:
    assert grouped([], BatchLimits(max_rows=8, cache_memory_bytes=1)) == []


def test_halving_keeps_the_order_and_refuses_only_what_never_fits() -> None:
    tried: list[int] = []

    def run(rows: list[int]) -> list[str]:
        tried.append(len(rows))
        if sum(rows) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return [f"ran {row}" for row in rows]

    answers = run_halving([4, 5, 99, 1, 2], run, lambda row: f"refused {row}")
    assert answers == ["ran 4", "ran 5", "refused 99", "ran 1", "ran 2"]
    assert tried[:2] == [5, 3]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_cpus_own_refusal_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
