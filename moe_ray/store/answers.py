"""The answer table: one row per cell, in Parquet, that pandas, datasets and DuckDB open.

An answer belongs to every model whose cell has its `key`; `model` is the name under which it was computed, and nothing
is looked up by it.

Content columns (`CONTENT_COLUMNS`) repeat byte for byte when a run is resumed or moved under greedy decoding.
Timing columns say how this computation of them went.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moe_ray.characters import whole_characters
from moe_ray.engines.base import FinishReason
from moe_ray.files import write_atomically
from moe_ray.fingerprint import fingerprint

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

    Fields with a default are those that only some kinds of cells fill (`CellKind.columns`).
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
    kind: str
    model: str
    domain: str
    example_id: str
    sample_index: int
    messages: str
    settings: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    error: str | None
    batch_rows: int
    time_to_first_token_s: float | None
    total_s: float
    replica: str
    shard: str
    finished_at: float
    num_truncated_tokens: int = 0
    text: str | None = None
    reasoning: str | None = None
    token_ids: list[int] | None = None
    num_completion_tokens: int = 0
    num_reasoning_tokens: int | None = None
    loglikelihoods: list[float | None] | None = None
    loglikelihood_tokens: list[int] | None = None


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


PARTS_KEY = b"moe_ray.parts"
MERGED_PREFIX = "merged-"
# Opening a file costs about as much as reading a megabyte; a merge has to hold its parts in memory, ten times as large.
MIN_FILES_TO_MERGE = 256
SMALL_FILE_BYTES = 8 << 20
MERGED_BYTES = 32 << 20
# A data set keeps the metadata of all its files, some 75 kB each.
FILES_AT_A_TIME = 1000
ROW_ORDER = ("domain", "model", "example_id", "kind", "sample_index")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFiles:
    """The answer files of a folder. `parts` are the shard files that were ever committed, with their sizes in bytes."""

    current: tuple[Path, ...]
    superseded: tuple[Path, ...]
    parts: Mapping[str, int]


def list_answer_files(files: Iterable[Path]) -> AnswerFiles:
    """Separate the answer files that count from those that a merged file holds already.

    Raises `FileNotFoundError` when another process merges files in this moment: list them again.
    """
    paths = sorted(files)
    parts_of = {path: _parts(path) for path in paths}
    parts: dict[str, int] = {}
    current: list[Path] = []
    # Two files share all parts of the smaller one or none: what a merge reads, it takes whole.
    for path in sorted(paths, key=lambda path: (-len(parts_of[path]), path)):
        if parts_of[path].keys() <= parts.keys():
            continue
        parts.update(parts_of[path])
        current.append(path)
    superseded = sorted(set(paths).difference(current))
    return AnswerFiles(current=tuple(sorted(current)), superseded=tuple(superseded), parts=parts)


def _parts(path: Path) -> dict[str, int]:
    if not path.name.startswith(MERGED_PREFIX):
        return {path.name: path.stat().st_size}
    metadata = pq.read_metadata(path).metadata or {}
    parts: dict[str, int] = json.loads(metadata[PARTS_KEY])
    return parts


def merge_small_files(folder: Path) -> int:
    """Merge the small files of `folder` when there are many; return how many there were to merge.

    Only the process that holds the run directory may call this. Reading processes are not disturbed.
    """
    for leftover in (*list_answer_files(folder.glob("*.parquet")).superseded, *folder.glob(f".{MERGED_PREFIX}*.tmp")):
        leftover.unlink()
    small = [
        path for path in list_answer_files(folder.glob("*.parquet")).current if path.stat().st_size < SMALL_FILE_BYTES
    ]
    if len(small) < MIN_FILES_TO_MERGE:
        return 0
    for group in _groups(small):
        # One file alone would be written over itself.
        if len(group) > 1:
            _merge(folder, group)
    return len(small)


def _groups(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Files in their order, as many at a time as fit one merged file."""
    group: list[Path] = []
    num_bytes = 0
    for path in paths:
        size = path.stat().st_size
        if group and num_bytes + size > MERGED_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append(path)
        num_bytes += size
    if group:
        yield group


def _merge(folder: Path, paths: Sequence[Path]) -> None:
    parts = {name: size for path in paths for name, size in _parts(path).items()}
    table = read_files(paths).sort_by([(name, "ascending") for name in ROW_ORDER])
    path = folder / f"{MERGED_PREFIX}{fingerprint(sorted(parts))}.parquet"
    write_atomically(path, lambda temporary: _write_merged(temporary, table, parts))
    for part in paths:
        part.unlink()


def _write_merged(path: Path, table: pa.Table, parts: Mapping[str, int]) -> None:
    """Write the rows of each domain and model as row groups of their own, so that a reader of one skips the others."""
    fields = [field.with_nullable(field.nullable or table[field.name].null_count > 0) for field in table.schema]
    schema = pa.schema(fields, metadata={PARTS_KEY: json.dumps(parts).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _by_domain_and_model(table.cast(schema)):
            writer.write_table(group)


def _by_domain_and_model(table: pa.Table) -> Iterator[pa.Table]:
    counted = table.group_by(["domain", "model"], use_threads=False).aggregate([("key", "count")])
    start = 0
    for num_rows in counted["key_count"].to_pylist():
        yield table.slice(start, num_rows)
        start += num_rows


def read_files(
    paths: Sequence[Path], columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """Read answer files as one table, in their order, keeping the rows that `where` tells, or all.

    A column that a file of an earlier version lacks is null there. Raises `FileNotFoundError` for a file that is gone,
    and `pa.ArrowInvalid` or `OSError` for one that cannot be read.
    """
    names = list(columns or ANSWER_SCHEMA.names)
    parts = [paths[start : start + FILES_AT_A_TIME] for start in range(0, len(paths), FILES_AT_A_TIME)]
    tables = [_read_dataset(part, names, where) for part in parts]
    # Not `empty_table`, which imports pandas.
    return pa.concat_tables(tables) if tables else pa.Table.from_batches([], ANSWER_SCHEMA).select(names)


def _read_dataset(paths: Sequence[Path], names: list[str], where: pc.Expression | None) -> pa.Table:
    # It brings pandas along, which a command that reads no answers need not wait for.
    import pyarrow.dataset as pads

    dataset = pads.dataset([str(path) for path in paths], schema=ANSWER_SCHEMA, format="parquet")
    return dataset.to_table(columns=names, filter=where)
