"""Scores as columns: one for each (model, domain, metric), all of a domain over the same sorted examples.

Everything above works on these arrays, so that the order in which scores were computed or read never matters.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moe_ray.scoring.score import Score

FloatArray = npt.NDArray[np.float64]
ObjectArray = npt.NDArray[np.object_]

COLUMN_PARTS = ("values", "weights", "labels", "golds", "reasons")
NO_SCORE = "no score for this example"
NOT_FINITE = "the score is not a finite number"


class ColumnKey(NamedTuple):
    """What a column is about."""

    model: str
    domain: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One metric over the n examples of one domain, in the order of their sorted ids.

    `values` [n] is NaN where there is no score; `reasons` [n] then says why and is None elsewhere. `labels` and
    `golds` [n] hold strings where the metric counts labels, else None.
    """

    values: FloatArray
    weights: FloatArray
    labels: ObjectArray
    golds: ObjectArray
    reasons: ObjectArray

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
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

    def gold_labels(self, domain: str, metric: str) -> tuple[str, ...]:
        """Gold labels seen in `domain`, by any model, sorted."""
        seen: set[Any] = set()
        for key, column in self.columns.items():
            if key.domain == domain and key.metric == metric:
                seen.update(column.golds.tolist())
        return tuple(sorted(label for label in seen if label is not None))

    def over(self, domain: str, example_ids: Sequence[str]) -> "ScoreMatrix":
        """This matrix with `domain` alone, over other (sorted) examples; those it does not know are unscored."""
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


def score_matrix(scores: Iterable[Score]) -> ScoreMatrix:
    """Arrange `scores` in columns. Raises `ValueError` when a cell of the matrix has two scores."""
    grouped: dict[ColumnKey, list[Score]] = defaultdict(list)
    ids: dict[str, set[str]] = defaultdict(set)
    for score in scores:
        grouped[ColumnKey(score.model, score.domain, score.metric)].append(score)
        ids[score.domain].add(score.example_id)
    example_ids = {domain: tuple(sorted(ids[domain])) for domain in sorted(ids)}
    positions = {domain: {name: at for at, name in enumerate(names)} for domain, names in example_ids.items()}
    columns = {key: _column(key, grouped[key], positions[key.domain]) for key in sorted(grouped)}
    return ScoreMatrix(example_ids=example_ids, columns=columns)


def _column(key: ColumnKey, scores: list[Score], positions: Mapping[str, int]) -> Column:
    column = empty_column(len(positions))
    filled = np.zeros(len(positions), dtype=bool)
    for score in scores:
        at = positions[score.example_id]
        if filled[at]:
            raise ValueError(f"two scores for {key} on example {score.example_id!r}")
        filled[at] = True
        _fill(column, at, score)
    return column


def _fill(column: Column, at: int, score: Score) -> None:
    value = np.nan if score.value is None else score.value
    column.values[at] = value if np.isfinite(value) else np.nan
    column.weights[at] = score.weight
    column.labels[at] = score.label
    column.golds[at] = score.gold
    if np.isfinite(value):
        column.reasons[at] = None
    else:
        column.reasons[at] = score.reason or ("no reason given" if score.value is None else NOT_FINITE)
