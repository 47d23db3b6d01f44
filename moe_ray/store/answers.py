"""The answer table: one row per cell, in Parquet, that pandas, datasets and DuckDB open.

An answer belongs to every model whose cell has its `key`; `model` is the name under which it was computed, and nothing
is looked up by it.

Content columns (`CONTENT_COLUMNS`) repeat byte for byte when a run is resumed or moved under greedy decoding.
Timing columns say how this computation of them went.
"""

import itertools
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from moe_ray.characters import whole_characters
from moe_ray.engines.base import FinishReason
from moe_ray.planning.cells import CellKind

CONTENT_COLUMNS = (
    "key", "kind", "model", "domain", "example_id", "sample_index", "messages", "settings",
    "text", "reasoning", "token_ids", "finish_reason", "num_prompt_tokens", "num_truncated_tokens",
    "num_completion_tokens", "num_reasoning_tokens", "loglikelihoods", "loglikelihood_tokens", "error",
)  # fmt: skip
# What a grader may look at. The prompt and the token ids are most of a row, and no grader's business.
GRADED_COLUMNS = (
    "key", "kind", "model", "domain", "example_id", "sample_index", "settings", "text", "reasoning", "finish_reason",
    "num_prompt_tokens", "num_truncated_tokens", "num_completion_tokens", "loglikelihoods", "error",
)  # fmt: skip

ANSWER_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("num_prompt_tokens", pa.int32(), nullable=False),
        pa.field("num_truncated_tokens", pa.int32(), nullable=False),
        pa.field("num_completion_tokens", pa.int32(), nullable=False),
        pa.field("num_reasoning_tokens", pa.int32()),
        pa.field("loglikelihoods", pa.list_(pa.float64())),
        pa.field("loglikelihood_tokens", pa.list_(pa.int32())),
        pa.field("error", pa.string()),
        pa.field("batch_rows", pa.int32(), nullable=False),
        pa.field("time_to_first_token_s", pa.float64()),
        pa.field("total_s", pa.float64(), nullable=False),
        pa.field("replica", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("finished_at", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said for a cell. Field for field a row of the answer table.

    `messages` and `settings` are JSON: the prompt as asked, and the decoding settings with the continuations that
    were measured. `loglikelihoods` are nats, one per continuation, in the order of `settings["continuations"]`: the
    choices, then the reference; None for one that does not fit the model's context after the prompt.
    `text` is the answer without its reasoning trace, which is `reasoning`: None where there is none, or where an
    earlier version left it in the text. `num_completion_tokens` counts the trace too; `num_reasoning_tokens` is its
    part, None where that is not known.
    `num_truncated_tokens` of the prompt were cut from its left before the model read it. `finished_at` is a Unix time
    in seconds; `replica` names the actor.
    """

    key: str
    kind: CellKind
    model: str
    domain: str
    example_id: str
    sample_index: int
    messages: str
    settings: str
    text: str | None
    token_ids: list[int] | None
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_completion_tokens: int
    loglikelihoods: list[float | None] | None
    loglikelihood_tokens: list[int] | None
    error: str | None
    batch_rows: int
    time_to_first_token_s: float | None
    total_s: float
    replica: str
    shard: str
    finished_at: float
    num_truncated_tokens: int = 0
    reasoning: str | None = None
    num_reasoning_tokens: int | None = None


def to_table(answers: list[Answer]) -> pa.Table:
    """Return `answers` as a table of `ANSWER_SCHEMA`. Lone surrogates in its texts become U+FFFD."""
    columns = {name: [_storable(getattr(answer, name)) for answer in answers] for name in ANSWER_SCHEMA.names}
    return pa.table(columns, schema=ANSWER_SCHEMA)


def _storable(value: Any) -> Any:
    return whole_characters(value) if isinstance(value, str) else value


def from_table(table: pa.Table) -> list[Answer]:
    """Return the rows of `table` as answers; columns that this version does not know are ignored.

    A table of some of the columns gives answers that lack the others: what is a text is "" there, what is a number 0,
    what can be null None.
    """
    names = [field.name for field in fields(Answer)]
    columns = [
        table.column(name).to_pylist() if name in table.column_names else itertools.repeat(_lacking(name))
        for name in names
    ]
    rows = zip(*columns, strict=False) if table.num_rows else ()
    return [Answer(**dict(zip(names, row, strict=True))) for row in rows]


def _lacking(name: str) -> Any:
    field = ANSWER_SCHEMA.field(name)
    if field.nullable:
        return None
    return "" if pa.types.is_string(field.type) else 0
