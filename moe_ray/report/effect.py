"""A paired difference as it is drawn at the top of the report: how far from zero, how surely, on whose side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moe_ray.comparison.records import PairedComparison
from moe_ray.report.format import interval, number, signed
from moe_ray.report.views import MetricView

STEPS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
MIN_LIMIT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A difference on a line whose middle is zero.

    `system`'s half is the right one, `baseline`'s the left. `at`, `start` and `end` are places in percent of the line,
    `start` and `end` None where there is no interval. `left` and `right` are the differences at the line's ends,
    `described` is all of it in words.
    """

    system: str
    baseline: str
    difference: str
    metric: str
    better: str
    at: float
    start: float | None
    end: float | None
    left: str
    right: str
    described: str


def effects(pairs: Sequence[tuple[PairedComparison, MetricView]]) -> list[Effect | None]:
    """One for each pair, None without a difference. Metrics without a unit share a scale, so that eyes can compare."""
    shared = _limit([comparison for comparison, metric in pairs if not metric.unit])
    return [
        _effect(comparison, metric, _limit([comparison]) if metric.unit else shared)
        if comparison.difference is not None
        else None
        for comparison, metric in pairs
    ]


def _limit(comparisons: Sequence[PairedComparison]) -> float:
    """The smallest of 0.05, 0.06, 0.08, 0.1, 0.2, 0.3, ... that holds all of their intervals."""
    ends = [abs(end) for item in comparisons for end in (item.difference, item.low, item.high) if end is not None]
    largest = max(ends, default=0.0)
    if largest <= MIN_LIMIT:
        return MIN_LIMIT
    unit: float = 10.0 ** math.floor(math.log10(largest))
    return next(step * unit for step in STEPS if step * unit >= largest * (1 - 1e-9))


def _effect(comparison: PairedComparison, metric: MetricView, limit: float) -> Effect:
    sign = 1 if metric.higher_is_better else -1

    def place(value: float) -> float:
        return round(50 + 50 * sign * value / limit, 2)

    assert comparison.difference is not None
    ends = sorted(place(end) for end in (comparison.low, comparison.high) if end is not None)
    digits = max(0, -math.floor(math.log10(limit)))
    bounds = interval(comparison.low, comparison.high)
    return Effect(
        system=comparison.system_a,
        baseline=comparison.system_b,
        difference=signed(comparison.difference),
        metric=metric.title,
        better=metric.better,
        at=place(comparison.difference),
        start=ends[0] if ends else None,
        end=ends[-1] if ends else None,
        left=signed(-sign * limit, digits),
        right=signed(sign * limit, digits),
        described=f"{metric.title}, {comparison.system_a} minus {comparison.system_b}: "
        f"{signed(comparison.difference)}, interval {bounds}, on a line from {number(-limit, digits)} to "
        f"{number(limit, digits)}, {metric.better}",
    )
