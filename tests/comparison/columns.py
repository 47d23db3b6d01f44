"""Columns and score lists from plain values, for the tests of this package."""

from collections.abc import Sequence

from moe_ray.comparison.columns import Column, ColumnKey, score_matrix
from moe_ray.scoring.score import Metric, Score

MEAN = Metric(name="m", definition="a mean")
BINARY = Metric(name="m", definition="right or wrong", binary=True)
MACRO_F1 = Metric(name="m", definition="macro-F1", aggregation="macro_f1")


def scores_of(
    values: Sequence[float | None],
    *,
    model: str = "model",
    weights: Sequence[float] | None = None,
    labels: Sequence[str | None] | None = None,
    golds: Sequence[str | None] | None = None,
    metric: str = "m",
) -> list[Score]:
    """One score for each value, over examples e00000, e00001, ..."""
    return [
        Score(
            model=model,
            domain="d",
            example_id=f"e{at:05d}",
            metric=metric,
            value=value,
            reason="no answer" if value is None else None,
            weight=weights[at] if weights is not None else 1.0,
            label=labels[at] if labels is not None else None,
            gold=golds[at] if golds is not None else None,
        )
        for at, value in enumerate(values)
    ]


def column_of(
    values: Sequence[float | None],
    *,
    weights: Sequence[float] | None = None,
    labels: Sequence[str | None] | None = None,
    golds: Sequence[str | None] | None = None,
) -> Column:
    """The column of `scores_of`."""
    scores = scores_of(values, weights=weights, labels=labels, golds=golds)
    return score_matrix(scores).columns[ColumnKey("model", "d", "m")]


def label_column(golds: Sequence[str], labels: Sequence[str]) -> Column:
    """A column whose values say whether label and gold are equal."""
    values = [float(gold == label) for gold, label in zip(golds, labels, strict=True)]
    return column_of(values, labels=labels, golds=golds)
