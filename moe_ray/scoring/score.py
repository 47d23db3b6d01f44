"""Scores, and the table that keeps them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from moe_ray.domains.example import Example
from moe_ray.errors import RunDirectoryError
from moe_ray.files import write_atomically
from moe_ray.store.answers import Answer

Aggregation = Literal["mean", "macro_f1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One value of one metric, for one model on one example.

    `value` is None when the answer could not be scored (no answer, an error): `reason` then says why. Such a score
    is counted, and is not a zero. `failed` is True where that is the model's own fault (an error, a prompt refused by
    its length): comparisons then count it as the metric's `worst`, so that failing never helps. It is False where
    nothing was computed yet, or where the grader or the example is at fault. `weight` is the example's share in a
    weighted mean (bytes, for bits per byte). `label` and `gold` are set where the metric counts labels (macro-F1,
    confusion).
    """

    model: str
    domain: str
    example_id: str
    metric: str
    value: float | None
    reason: str | None = None
    failed: bool = False
    weight: float = 1.0
    label: str | None = None
    gold: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How the scores of one name are read: their merge, their direction, and one line that defines them.

    `worst` is what a failed answer counts as where systems are compared; None where the metric has no worst value
    (bits per byte), so that a failure cannot be counted.
    """

    name: str
    definition: str
    aggregation: Aggregation = "mean"
    higher_is_better: bool = True
    binary: bool = False
    worst: float | None = 0.0
    unit: str = ""


class Grader(Protocol):
    """Turns the answers of one model to one example into scores, one for each of its metrics."""

    metrics: tuple[Metric, ...]

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Grade `answers` (all samples and likelihoods of one example by one model; maybe none).

        Returns exactly one score for each of `metrics`, in their order; unscored ones carry a reason.
        """
        ...


@runtime_checkable
class BatchGrader(Grader, Protocol):
    """A grader that is much faster when it gets many examples at once."""

    def grade_many(self, items: Sequence[tuple[Example, str, Sequence[Answer]]]) -> list[list[Score]]:
        """Grade (example, model, answers) items; returns for each, in order, what `grade` would."""
        ...


@runtime_checkable
class ExampleChecker(Grader, Protocol):
    """A grader that can tell beforehand that it would grade nothing right."""

    def check_examples(self, examples: Sequence[Example]) -> None:
        """Raise a `UserError` when the examples of a domain cannot be graded, before any model answers them."""
        ...


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
            remedy="delete it; scoring again recomputes it from the answers",
        ) from error
    return table, metrics


def _with_failed(table: pa.Table) -> pa.Table:
    """Tables of earlier versions do not say which scores failed; they are read as if none had."""
    if "failed" in table.column_names:
        return table
    return table.append_column(SCORE_SCHEMA.field("failed"), pa.array([False] * table.num_rows))
