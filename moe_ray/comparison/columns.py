"""Scores as columns: one for each (model, domain, metric), all of a domain over the same sorted examples.

Everything above works on these arrays, so that the order in which scores were computed or read never matters.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.scoring.score import TEXT_COLUMNS, Metric, Scores, score_table

ObjectArray = npt.NDArray[np.object_]

COLUMN_PARTS = ("values", "weights", "labels", "golds", "reasons", "failed")
NO_SCORE = "no score for this example"
NO_REASON = "no reason given"
NOT_FINITE = "the score is not a finite number"


class ColumnKey(NamedTuple):
    """What a column is about."""

    model: str
    domain: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One metric over the n examples of one domain, in the order of their sorted ids.

    `values` [n] is NaN where there is no score; `reasons` [n] says why and is None where an answer was scored. `labels`
    and `golds` [n] hold strings where the metric counts labels, else None. `failed` [n] is True where the model itself
    is at fault for a missing score: once failures are counted (`failures.count_failures`), `values` has the metric's
    worst value there.
    """

    values: FloatArray
    weights: FloatArray
    labels: ObjectArray
    golds: ObjectArray
    reasons: ObjectArray
    failed: BoolArray

    @property
    def scored(self) -> BoolArray:
        """True [n] where there is a value."""
        return ~np.isnan(self.values)


def empty_column(num_examples: int) -> Column:
    """A column in which nothing is scored yet."""
    return Column(
        values=np.full(num_examples, np.nan),
        weights=np.ones(num_examples),
        labels=np.full(num_examples, None, dtype=object),
        golds=np.full(num_examples, None, dtype=object),
        reasons=np.full(num_examples, NO_SCORE, dtype=object),
        failed=np.zeros(num_examples, dtype=np.bool_),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreMatrix:
    """All scores of a run. `example_ids` are sorted; the columns of a domain follow their order."""

    example_ids: Mapping[str, tuple[str, ...]]
    columns: Mapping[ColumnKey, Column]

    def models_of(self, domain: str) -> frozenset[str]:
        """Models that have scores on `domain`."""
        return frozenset(key.model for key in self.columns if key.domain == domain)

    def metrics_of(self, domain: str) -> frozenset[str]:
        """Metrics that some model has on `domain`."""
        return frozenset(key.metric for key in self.columns if key.domain == domain)

    def gold_labels(self, domain: str, metric: Metric) -> tuple[str, ...]:
        """Gold labels seen in `domain`, by any model, sorted; none for a metric that does not count labels."""
        seen: set[Any] = set()
        for key, column in self.columns.items() if metric.aggregation == "macro_f1" else ():
            if key.domain == domain and key.metric == metric.name:
                seen.update(column.golds.tolist())
        return tuple(sorted(label for label in seen if label is not None))

    def over(self, domain: str, example_ids: Sequence[str]) -> "ScoreMatrix":
        """This matrix with `domain` alone, over other (sorted) examples; those it does not know are unscored."""
        if self.example_ids.get(domain) == tuple(example_ids):
            columns = {key: column for key, column in self.columns.items() if key.domain == domain}
            return ScoreMatrix(example_ids={domain: tuple(example_ids)}, columns=columns)
        known = {name: at for at, name in enumerate(self.example_ids.get(domain, ()))}
        pairs = [(at, known[name]) for at, name in enumerate(example_ids) if name in known]
        to, source = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        columns = {
            key: _moved(column, to, source, len(example_ids))
            for key, column in self.columns.items()
            if key.domain == domain
        }
        return ScoreMatrix(example_ids={domain: tuple(example_ids)}, columns=columns)


def _moved(column: Column, to: npt.NDArray[np.intp], source: npt.NDArray[np.intp], num_examples: int) -> Column:
    result = empty_column(num_examples)
    for name in COLUMN_PARTS:
        getattr(result, name)[to] = getattr(column, name)[source]
    return result


def score_matrix(scores: Scores) -> ScoreMatrix:
    """Arrange `scores`, or the rows of a score table, in columns; works on whole arrays, never score by score.

    Raises `ValueError` when a cell of the matrix has two scores.
    """
    table = score_table(scores)
    texts = {name: coded(table.column(name)) for name in TEXT_COLUMNS}
    numbers = {name: table.column(name).to_numpy() for name in ("value", "weight")}
    is_given = table.column("value").is_valid().to_numpy()
    has_failed = table.column("failed").to_numpy()
    example_ids: dict[str, tuple[str, ...]] = {}
    columns: dict[ColumnKey, Column] = {}
    for domain, rows in texts["domain"].groups(np.arange(table.num_rows)):
        example_ids[domain], positions = _positions(texts["example_id"], rows)
        for model, of_model in texts["model"].groups(rows):
            for metric, chosen in texts["metric"].groups(of_model):
                key = ColumnKey(model, domain, metric)
                values, weights = numbers["value"][chosen], numbers["weight"][chosen]
                part = _Rows(chosen, texts, values, weights, is_given[chosen], has_failed[chosen])
                columns[key] = _column(key, part, positions[texts["example_id"].codes[chosen]], example_ids[domain])
    return ScoreMatrix(example_ids=example_ids, columns={key: columns[key] for key in sorted(columns)})


class Coded(NamedTuple):
    """A column of texts [n]: `names[codes]` are its texts. Nulls have code -1, and `names` ends with None for them."""

    names: ObjectArray
    codes: npt.NDArray[np.int32]

    def texts(self, rows: IntArray) -> ObjectArray:
        """The texts of `rows`."""
        found: ObjectArray = self.names[self.codes[rows]]
        return found

    def groups(self, rows: IntArray) -> Iterator[tuple[str, IntArray]]:
        """Each text of `rows`, in the order of the texts, with the rows that have it, in their order."""
        codes = self.codes[rows]
        ordered = rows[np.argsort(codes, kind="stable")]
        found, counts = np.unique(codes, return_counts=True)
        places = zip(found.tolist(), counts.tolist(), np.cumsum(counts).tolist(), strict=True)
        parts = [(self.names[code], ordered[end - count : end]) for code, count, end in places]
        yield from sorted(parts, key=lambda part: part[0])


def coded(column: pa.ChunkedArray) -> Coded:
    """A text column as codes."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = encoded.unify_dictionaries().combine_chunks()
    names = np.array([*whole.dictionary.to_pylist(), None], dtype=object)
    return Coded(names, whole.indices.fill_null(-1).to_numpy().astype(np.int32, copy=False))


def _positions(column: Coded, rows: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """The sorted texts of `column` in `rows`, and the place of each code's text among them."""
    found = np.unique(column.codes[rows])
    names = sorted(zip(column.names[found].tolist(), found.tolist(), strict=True))
    positions = np.full(len(column.names), -1, dtype=np.intp)
    positions[[code for _, code in names]] = np.arange(len(names))
    return tuple(name for name, _ in names), positions


class _Rows(NamedTuple):
    """The rows of one column: where they are in the table, and their numbers [m]. `values` is NaN for no value."""

    rows: IntArray
    texts: Mapping[str, Coded]
    values: FloatArray
    weights: FloatArray
    is_given: BoolArray
    has_failed: BoolArray


def _column(key: ColumnKey, part: _Rows, places: IntArray, example_ids: Sequence[str]) -> Column:
    column = empty_column(len(example_ids))
    twice = np.flatnonzero(np.bincount(places, minlength=len(example_ids)) > 1)
    if len(twice):
        raise ValueError(f"two scores for {key} on example {example_ids[twice[0]]!r}")
    is_finite = np.isfinite(part.values)
    column.values[places] = np.where(is_finite, part.values, np.nan)
    column.weights[places] = part.weights
    column.labels[places] = part.texts["label"].texts(part.rows)
    column.golds[places] = part.texts["gold"].texts(part.rows)
    column.reasons[places] = None
    column.reasons[places[~is_finite]] = _reasons(part, ~is_finite)
    column.failed[places] = part.has_failed & ~is_finite
    return column


def _reasons(part: _Rows, chosen: BoolArray) -> ObjectArray:
    """Why there is no value, for the `chosen` rows."""
    given = part.texts["reason"].texts(part.rows[chosen])
    default = np.where(part.is_given[chosen], NOT_FINITE, NO_REASON).astype(object)
    reasons: ObjectArray = np.where(given.astype(bool), given, default)
    return reasons
