"""Which labels are taken for which: confusion, precision, recall and F1."""

from collections.abc import Sequence

import numpy as np

from moe_ray.routing.calibration import IntArray
from moe_ray.routing.results import LabelResult


def confusion_matrix(gold: IntArray, predicted: IntArray, num_labels: int) -> IntArray:
    """Counts [num_labels, num_labels]: texts of label i that were given label j."""
    counts = np.bincount(gold * num_labels + predicted, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels).astype(np.intp)


def f1_of_labels(confusion: IntArray) -> list[float | None]:
    """F1 of each label; None for a label that no text bears and none was given."""
    right, given, borne = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return [_ratio(2 * a, b + c) for a, b, c in zip(right, given, borne, strict=True)]


def macro_f1(confusion: IntArray) -> float:
    """Mean F1 of the labels that some text bears or was given; there is at least one text."""
    known = [f1 for f1 in f1_of_labels(confusion) if f1 is not None]
    return sum(known) / len(known)


def label_results(labels: Sequence[str], confusion: IntArray) -> list[LabelResult]:
    """Precision, recall and F1 of each label."""
    right, given, borne = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return [
        LabelResult(
            label=label,
            n=int(borne[at]),
            precision=_ratio(right[at], given[at]),
            recall=_ratio(right[at], borne[at]),
            f1=f1,
        )
        for at, (label, f1) in enumerate(zip(labels, f1_of_labels(confusion), strict=True))
    ]


def _ratio(part: int, whole: int) -> float | None:
    return float(part) / float(whole) if whole else None
