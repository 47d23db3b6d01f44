"""The score table: one row per (model, domain, example, metric), in Parquet, with the metrics in its schema."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from moe_ray.atomic import write_atomically
from moe_ray.errors import RunDirectoryError
from moe_ray.scoring.score import Metric, Score

METRICS_KEY = b"moe_ray.metrics"
ROWS_AT_A_TIME = 1 << 17

SCORE_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("reason", pa.string()),
        pa.field("failed", pa.bool_(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
# As objects, or as a table of SCORE_SCHEMA, whose texts may be dictionary-encoded.
Scores: TypeAlias = Iterable[Score] | pa.Table
TEXT_COLUMNS = [field.name for field in SCORE_SCHEMA if pa.types.is_string(field.type)]


def score_table(scores: Scores) -> pa.Table:
    """Return `scores` as a table."""
    if isinstance(scores, pa.Table):
        return scores
    rows = list(scores)
    columns = {name: [getattr(score, name) for score in rows] for name in SCORE_SCHEMA.names}
    try:
        return pa.table(columns, schema=SCORE_SCHEMA)
    except UnicodeEncodeError:  # a reason or a detail quotes half a character
        return pa.table(columns | {name: [*map(_escaped, columns[name])] for name in TEXT_COLUMNS}, schema=SCORE_SCHEMA)


def _escaped(text: str | None) -> str | None:
    return None if text is None else text.encode(errors="backslashreplace").decode()


def scores_of_table(table: pa.Table) -> list[Score]:
    """Return the rows of a score table as scores."""
    rows = table.select([field.name for field in fields(Score)]).to_pylist()
    return [Score(**row) for row in rows]


def write_scores(path: Path, scores: Iterable[Score], metrics: Mapping[str, Metric]) -> None:
    """Write the score table, whole or not at all, a part at a time as `scores` come.

    `metrics` go into the schema's metadata, as JSON, by name.
    """
    described = json.dumps({name: asdict(metric) for name, metric in metrics.items()})
    schema = SCORE_SCHEMA.with_metadata({METRICS_KEY: described.encode()})
    write_atomically(path, lambda temporary: _write_parts(temporary, iter(scores), schema))


def _write_parts(path: Path, scores: Iterator[Score], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while part := list(islice(scores, ROWS_AT_A_TIME)):
            writer.write_table(score_table(part).cast(schema))


def read_scores(path: Path) -> tuple[pa.Table, dict[str, Metric]]:
    """Return the score table, its texts dictionary-encoded, and the metrics by name.

    Raises `RunDirectoryError` when there is no readable table.
    """
    if not path.is_file():
        raise RunDirectoryError(
            "no scores here", where=str(path), remedy="run moe-ray evaluate (it scores answers that are there already)"
        )
    try:
        there = [name for name in SCORE_SCHEMA.names if name != "failed" or name in pq.read_schema(path).names]
        table = pq.read_table(path, columns=there, read_dictionary=TEXT_COLUMNS).unify_dictionaries()
        described = json.loads(table.schema.metadata[METRICS_KEY])
        table = _with_failed(table).select(SCORE_SCHEMA.names)
        metrics = {name: Metric(**metric) for name, metric in described.items()}
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise RunDirectoryError(
            f"the score table cannot be read: {error}",
            where=str(path),
            remedy="delete it; scoring again makes it anew from the answers",
        ) from error
    return table, metrics


def _with_failed(table: pa.Table) -> pa.Table:
    """Tables of earlier versions do not say which scores failed; they are read as if none had."""
    if "failed" in table.column_names:
        return table
    return table.append_column(SCORE_SCHEMA.field("failed"), pa.array([False] * table.num_rows))
