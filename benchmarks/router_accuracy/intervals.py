"""Intervals of what the confusion counts tell, and of the difference between two routers on the same texts."""

from collections.abc import Sequence

import numpy as np

from benchmarks.router_accuracy.records import Verdict
from moe_ray.comparison.resampling import Interval, label_rows, shares_difference_interval
from moe_ray.comparison.statistics import macro_f1_interval
from moe_ray.routing.files import RouterTestResults
from moe_ray.scoring.score import Metric

MACRO_F1 = Metric(name="macro_f1", definition="F1, mean over the labels", aggregation="macro_f1")


def macro_f1_bounds(results: RouterTestResults) -> Interval:
    """The 95 % interval of macro-F1, as a run's report has it."""
    counts = np.array(results.confusion)
    gold, predicted = (np.repeat(places.ravel(), counts.ravel()) for places in np.indices(counts.shape))
    one_hot = np.eye(len(counts))
    return macro_f1_interval(label_rows(one_hot[gold], one_hot[predicted]), results.macro_f1, MACRO_F1)


def accuracy_difference(first: Sequence[Verdict], second: Sequence[Verdict]) -> tuple[float, Interval]:
    """Accuracy of `first` minus that of `second`, on the same texts in the same order, with its 95 % interval."""
    if [verdict.id for verdict in first] != [verdict.id for verdict in second]:
        raise ValueError("the verdicts are of other texts")
    pairs = [(a.predicted == a.label, b.predicted == b.label) for a, b in zip(first, second, strict=True)]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    difference = (only_first - only_second) / len(pairs)
    return difference, shares_difference_interval(only_first, only_second, len(pairs))
