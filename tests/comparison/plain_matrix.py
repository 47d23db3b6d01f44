"""The matrix of scores made score by score, slow and plain: what `score_matrix` is held against."""

import math
from collections.abc import Sequence

from moe_ray.comparison.columns import NO_REASON, NOT_FINITE, Column, ColumnKey, ScoreMatrix, empty_column
from moe_ray.scoring.score import Score


def plain_matrix(scores: Sequence[Score]) -> ScoreMatrix:
    """The columns of `scores`, each cell put into its place by itself."""
    domains = sorted({score.domain for score in scores})
    ids = {name: tuple(sorted({score.example_id for score in scores if score.domain == name})) for name in domains}
    columns: dict[ColumnKey, Column] = {}
    for score in scores:
        key = ColumnKey(score.model, score.domain, score.metric)
        column = columns.setdefault(key, empty_column(len(ids[score.domain])))
        at = ids[score.domain].index(score.example_id)
        column.weights[at], column.labels[at], column.golds[at] = score.weight, score.label, score.gold
        if score.value is not None and math.isfinite(score.value):
            column.values[at], column.reasons[at] = score.value, None
        else:
            column.failed[at] = score.failed
            column.reasons[at] = score.reason or (NO_REASON if score.value is None else NOT_FINITE)
    return ScoreMatrix(example_ids=ids, columns=columns)
