"""Metrics as functions of sums over examples: what an example adds to them, and the value that follows."""

import math
from collections.abc import Sequence

import numpy as np

from moe_ray.comparison.columns import Column, FloatArray
from moe_ray.scoring.score import Metric


def count_rows(column: Column, metric: Metric, labels: Sequence[str]) -> FloatArray:
    """What each example adds to the sums that the metric is a function of: [n, k].

    Means: weighted value, weight. Macro-F1 over L labels: see `label_rows`. Unscored examples add nothing.
    """
    if metric.aggregation == "mean":
        values = np.nan_to_num(column.values, nan=0.0)
        return np.stack([values * column.weights, column.weights], axis=1) * column.scored[:, None]
    if not labels:
        return np.zeros((len(column.values), 2))
    gold = np.stack([column.golds == label for label in labels], axis=1, dtype=np.float64)
    predicted = np.stack([column.labels == label for label in labels], axis=1, dtype=np.float64)
    return label_rows(gold, predicted) * column.scored[:, None]


def label_rows(gold: FloatArray, predicted: FloatArray) -> FloatArray:
    """True positives [L], then gold + predicted counts [L], of examples whose labels are given as 0 or 1: [n, 2 L]."""
    return np.concatenate([gold * predicted, gold + predicted], axis=1)


def exact_sums(rows: FloatArray) -> FloatArray:
    """Column sums of `rows` [n, k], correctly rounded: the same bits for every order and partition of the rows."""
    return np.array([math.fsum(column.tolist()) for column in rows.T])


def value_of_sums(sums: FloatArray, metric: Metric) -> float | None:
    """The metric from the sums of `count_rows`; None where nothing was counted."""
    value = float(values_of_sums(sums[None, :], metric)[0])
    return None if math.isnan(value) else value


def values_of_sums(sums: FloatArray, metric: Metric) -> FloatArray:
    """The metric of each row of `sums` [b, k]: [b], NaN where nothing was counted.

    A label that is neither gold nor predicted in a row has no F1 there and is left out of its mean.
    """
    half = sums.shape[1] // 2
    parts, wholes = sums[:, :half], sums[:, half:]
    factor = 1.0 if metric.aggregation == "mean" else 2.0
    ratios = np.divide(factor * parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
    num_counted = (wholes > 0).sum(axis=1)
    total = ratios.sum(axis=1)
    values: FloatArray = np.divide(total, num_counted, out=np.full(len(sums), np.nan), where=num_counted > 0)
    return values
