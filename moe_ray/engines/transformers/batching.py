"""Batches of rows that fit the memory, and halving a batch that does not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from moe_ray.engines.base import BatchLimits

RowT = TypeVar("RowT")
ResultT = TypeVar("ResultT")

OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSize:
    """What one row asks of memory: tokens in its prompt, tokens that may follow, positions whose logits are kept."""

    num_prompt_tokens: int
    num_new_tokens: int
    num_logits: int

    @property
    def num_tokens(self) -> int:
        """The length that the row may reach."""
        return self.num_prompt_tokens + self.num_new_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRule:
    """Bytes that one token's keys and values take, and one position's logits."""

    cache_bytes_per_token: int
    logits_bytes_per_position: int

    def batch_bytes(self, sizes: Sequence[RowSize]) -> int:
        """Return the bytes that a batch takes when each row is padded to the widest."""
        num_tokens = max(size.num_prompt_tokens for size in sizes) + max(size.num_new_tokens for size in sizes)
        num_logits = max(size.num_logits for size in sizes)
        row_bytes = num_tokens * self.cache_bytes_per_token + num_logits * self.logits_bytes_per_position
        return len(sizes) * row_bytes


def group_batches(
    rows: Sequence[RowT],
    *,
    size: Callable[[RowT], RowSize],
    name: Callable[[RowT], tuple[object, ...]],
    rule: MemoryRule,
    limits: BatchLimits,
    longest_shared: int | None = None,
) -> list[list[RowT]]:
    """Split `rows` into batches, longest prompts first, ties in the order of `name`.

    A batch has at most `limits.max_rows` rows and takes at most `limits.cache_memory_bytes`, but at least one row.
    Rows that may grow longer than `longest_shared` tokens run alone, before the others. The order of `rows` does
    not matter as long as names differ where content does.
    """

    def runs_alone(row: RowT) -> bool:
        return longest_shared is not None and size(row).num_tokens > longest_shared

    ordered = sorted(rows, key=lambda row: (-size(row).num_prompt_tokens, name(row)))
    batches = [[row] for row in ordered if runs_alone(row)]
    sizes: list[RowSize] = []
    for row in ordered:
        if runs_alone(row):
            continue
        sizes.append(size(row))
        fits = len(sizes) <= limits.max_rows and rule.batch_bytes(sizes) <= limits.cache_memory_bytes
        if len(sizes) > 1 and fits:
            batches[-1].append(row)
        else:
            batches.append([row])
            sizes = [size(row)]
    return batches


def run_halving(
    rows: list[RowT], run: Callable[[list[RowT]], list[ResultT]], refuse: Callable[[RowT], ResultT]
) -> list[ResultT]:
    """Return `run(rows)`; when memory runs out, run each half by itself. A single row that does not fit is refused."""
    try:
        return run(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the except clause, because the error's frames still hold the tensors that did not fit.
    torch.cuda.empty_cache()
    if len(rows) == 1:
        return [refuse(rows[0])]
    middle = (len(rows) + 1) // 2
    return run_halving(rows[:middle], run, refuse) + run_halving(rows[middle:], run, refuse)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` means that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY_WORDS)
