"""The cascade at every threshold: quality against cost, and how much of the gap between its two ends it recovers.

PGR at a threshold is (value - weak end) / (strong end - weak end). APGR is the area under PGR over the share of calls
to the strong end, from 0 to 1, and CPT(x) the smallest such share at which PGR is at least x % (RouteLLM, Ong et al.
2024, who take APGR's integral as a mean over ten shares). Here the area is that of the trapezoids between all
thresholds, so that examples of equal score count as if they were sent in any order; CPT is the share at a threshold
that exists.

All of them are ratios to the gap between the ends. Where the ends cannot be told apart on these examples there is no
strong end and none of these figures: they would be ratios to noise.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.comparison.costs import CellCosts, Spent, spent
from moe_ray.comparison.matrix import RunMatrix, no_conclusion, same_reference, sign
from moe_ray.comparison.policies import RoutedExamples
from moe_ray.comparison.resampling import (
    ROUNDING,
    Interval,
    count_rows,
    exact_sums,
    percentile_interval,
    resampled_sums,
    values_of_sums,
)
from moe_ray.comparison.routing_records import Sweep, SweepPoint
from moe_ray.comparison.systems import System, system_column

MAX_POINTS = 200
LEAST_UNVARIED = 6  # so many examples of one and the same gain have a two-sided sign test below 0.05
CPT_LEVELS = (50, 80)

Strong = Literal["routed", "baseline"]


class Ends(NamedTuple):
    """The n examples of a domain that both ends have scored: the router's scores [n], and what each end gives them.

    `routed` and `baseline` [n, k] are what an example adds to the sums behind the domain's headline metric; `costs`
    [2, n, 4] are those of `_cost_rows`. `not_concluded` says why the ends cannot be compared on this domain, if so.
    """

    scores: FloatArray
    routed: FloatArray
    baseline: FloatArray
    costs: FloatArray
    num_dropped: int
    not_concluded: str | None


class Curve(NamedTuple):
    """All thresholds [t], rising: the lowest leaves all to the router, the highest all to the baseline.

    `num_below` [t] is the number of examples, of `n`, that the baseline answers; costs [t] are NaN where not measured.
    """

    thresholds: FloatArray
    num_below: IntArray
    n: int
    values: FloatArray
    busy_s: FloatArray
    memory_byte_s: FloatArray


def threshold_sweep(
    run: RunMatrix,
    routed: System,
    baseline: System,
    asked: Mapping[str, RoutedExamples],
    cells: CellCosts,
    threshold: float,
) -> Sweep | None:
    """Sweep the threshold over the examples that both ends have headline scores for; the points include `threshold`'s.

    None where there are none, and where higher is better on one domain and worse on another: such values have no mean.
    """
    found = {domain: _ends(run, routed, baseline, asked[domain], cells, domain) for domain in asked}
    ends = {domain: both for domain, both in found.items() if len(both.scores)}
    directions = {sign(run.headlines[domain]) for domain in ends}
    if len(directions) != 1:
        return None
    curve = _curve(run, ends)
    reason = next((both.not_concluded for both in found.values() if both.not_concluded), None)
    gap = _gap_interval(run, ends)
    strong = None if reason else _strong_end(curve, gap, directions.pop())
    strong_shares = curve.num_below / curve.n if strong == "baseline" else 1 - curve.num_below / curve.n
    recovered = None if strong is None else _recovered(curve.values, strong)
    return Sweep(
        strong=strong,
        gap=float(curve.values[0] - curve.values[-1]),
        gap_low=gap.low,
        gap_high=gap.high,
        not_concluded=reason,
        metrics={domain: run.headlines[domain].name for domain in ends},
        n=curve.n,
        n_dropped=sum(both.num_dropped for both in found.values()),
        points=list(_points(curve, strong_shares, recovered, threshold)),
        apgr=None if recovered is None else area_under(recovered, strong_shares),
        cpt={
            level: None if recovered is None else _least_share(recovered, strong_shares, level) for level in CPT_LEVELS
        },
    )


def _ends(
    run: RunMatrix, routed: System, baseline: System, said: RoutedExamples, cells: CellCosts, domain: str
) -> Ends:
    """Examples without a score at either end, or without weight, are dropped."""
    ids, metric = run.scores.example_ids[domain], run.headlines[domain]
    first, last = (system_column(run.scores, end, domain, metric.name) for end in (routed, baseline))
    both = first.scored & last.scored & (last.weights > 0) & same_reference(first, last)
    labels = run.scores.gold_labels(domain, metric)
    costs = [spent(cells, domain, end.picks(domain, ids), said.seconds) for end in (routed, baseline)]
    return Ends(
        scores=said.scores[both],
        routed=count_rows(first, metric, labels)[both],
        baseline=count_rows(last, metric, labels)[both],
        costs=_cost_rows(*costs)[:, both],
        num_dropped=int((~both).sum()),
        not_concluded=no_conclusion(first, last, metric, routed.name, baseline.name),
    )


def _gap_interval(run: RunMatrix, ends: Mapping[str, Ends]) -> Interval:
    """The interval of the gap, router always minus baseline always: a bootstrap over all examples of all domains."""
    widths = [both.routed.shape[1] for both in ends.values()]
    num, starts = sum(len(both.scores) for both in ends.values()), np.cumsum([0, *widths])
    rows = np.zeros((2, num, sum(widths)))
    places = np.cumsum([0, *(len(both.scores) for both in ends.values())])
    for at, both in enumerate(ends.values()):
        block = (slice(places[at], places[at + 1]), slice(starts[at], starts[at + 1]))
        rows[0][block], rows[1][block] = both.routed, both.baseline
    sums = resampled_sums(np.concatenate(rows, axis=1))
    first, last = (
        np.mean(
            [
                values_of_sums(half[:, starts[at] : starts[at + 1]], run.headlines[domain])
                for at, domain in enumerate(ends)
            ],
            axis=0,
        )
        for half in np.split(sums, 2, axis=1)
    )
    return percentile_interval(first - last, num)


def _cost_rows(routed: Spent, baseline: Spent) -> FloatArray:
    """Costs [2, n, 4] of the ends: seconds and byte-seconds, and a 1 beside each that both ends have measured.

    What one of them has not measured is left out of both.
    """
    ends = np.array([[routed.busy_s, routed.memory_byte_s], [baseline.busy_s, baseline.memory_byte_s]])
    is_measured = ~np.isnan(ends).any(axis=0, keepdims=True) & np.ones_like(ends, dtype=np.bool_)
    if routed.kind != baseline.kind:
        is_measured[:, 1] = False
    rows: FloatArray = np.concatenate([np.where(is_measured, ends, 0.0), is_measured], axis=1).transpose(0, 2, 1)
    return rows


def _curve(run: RunMatrix, ends: Mapping[str, Ends]) -> Curve:
    scores = np.sort(np.concatenate([both.scores for both in ends.values()]))
    thresholds = np.append(np.unique(scores), np.nextafter(scores[-1], np.inf))
    values = [
        values_of_sums(sums_at(thresholds, both.scores, both.routed, both.baseline), run.headlines[domain])
        for domain, both in ends.items()
    ]
    costs = np.sum([sums_at(thresholds, both.scores, *both.costs) for both in ends.values()], axis=0)
    num_measured = np.where(costs[:, 2:] > 0, costs[:, 2:], np.nan)
    busy_s, memory_byte_s = (costs[:, :2] / num_measured).T
    num_below = np.searchsorted(scores, thresholds, side="left")
    return Curve(thresholds, num_below, len(scores), np.mean(values, axis=0), busy_s, memory_byte_s)


def sums_at(thresholds: FloatArray, scores: FloatArray, routed: FloatArray, baseline: FloatArray) -> FloatArray:
    """Column sums [t, k] over n examples, of `baseline`'s rows [n, k] where the score is below the threshold [t].

    And of `routed`'s where it is not. The sums of either end alone are exact.
    """
    order = np.argsort(scores, kind="stable")
    sums = np.zeros((len(scores) + 1, routed.shape[1]))
    sums[1:] = np.cumsum((baseline - routed)[order], axis=0)
    sums += exact_sums(routed)
    sums[-1] = exact_sums(baseline)
    found: FloatArray = sums[np.searchsorted(scores[order], thresholds, side="left")]
    return found


def _strong_end(curve: Curve, gap: Interval, direction: int) -> Strong | None:
    """The better end, where the gap's interval leaves out 0; None where the ends cannot be told apart."""
    gain = (curve.values[0] - curve.values[-1]) * direction
    is_unvaried = gap.low is None or gap.high is None
    is_shown = curve.n >= LEAST_UNVARIED if is_unvaried else not gap.holds(0)
    if gain == 0 or not is_shown:
        return None
    return "routed" if gain > 0 else "baseline"


def _recovered(values: FloatArray, strong: Strong) -> FloatArray:
    """PGR [t]: 0 where the weak end answers all, 1 where the strong end does."""
    best, worst = (values[0], values[-1]) if strong == "routed" else (values[-1], values[0])
    recovered: FloatArray = (values - worst) / (best - worst)
    return recovered


def area_under(recovered: FloatArray, strong_shares: FloatArray) -> float:
    """The integral of PGR [t] over the strong shares [t], which are distinct and span 0 to 1."""
    order = np.argsort(strong_shares)
    return float(np.trapezoid(recovered[order], strong_shares[order]))


def _least_share(recovered: FloatArray, strong_shares: FloatArray, percent: int) -> float:
    """The strong share of all calls reaches it at the latest."""
    return float(strong_shares[recovered >= percent / 100 - ROUNDING].min())


def _points(
    curve: Curve, strong_shares: FloatArray, recovered: FloatArray | None, threshold: float
) -> Iterator[SweepPoint]:
    """About MAX_POINTS of the curve's, evenly over the examples: both ends, and where the run's own threshold cuts."""
    wanted = np.linspace(0, curve.n, MAX_POINTS)
    own = min(int(np.searchsorted(curve.thresholds, threshold)), len(curve.thresholds) - 1)
    for at in np.unique([*np.searchsorted(curve.num_below, wanted), own]).tolist():
        yield SweepPoint(
            threshold=float(curve.thresholds[at]),
            baseline_share=float(curve.num_below[at] / curve.n),
            strong_share=float(strong_shares[at]),
            value=float(curve.values[at]),
            recovered=None if recovered is None else float(recovered[at]),
            busy_s=_known(curve.busy_s[at]),
            memory_byte_s=_known(curve.memory_byte_s[at]),
        )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
