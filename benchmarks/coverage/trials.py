"""Trials of a case, through the functions that a run's summary is made with."""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.coverage.cases import Case, ManyCase, PairCase, ValueCase, all_cases
from benchmarks.coverage.populations import LABELS, draw, draw_together
from moe_ray.comparison.differences import SIGNIFICANCE
from moe_ray.comparison.resampling import Interval
from moe_ray.comparison.statistics import aggregate, benjamini_hochberg, paired_difference

TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over trials, with its Monte-Carlo standard error; both None when no trial counted."""

    value: float | None
    standard_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the trials of one case came to.

    `coverage` and `width` are over the trials that gave an interval, `without` is the share that gave none. `rejected`
    is the share of tests with p < 0.05. `false_discovery_rate` is the mean share of the wrong ones among what is called
    different after adjustment, `found` the share of better systems that are called so.
    """

    coverage: Estimate
    width: Estimate
    without: float
    rejected: Estimate
    false_discovery_rate: Estimate
    found: Estimate


def run_case(index: int, num_trials: int) -> Outcome:
    """Run the trials of the case at `index`; the same in every process."""
    case = all_cases()[index]
    rng = np.random.default_rng([2025, index])
    trials = [_trial(case, rng) for _ in range(num_trials)]
    gave = [trial.covered is not None for trial in trials]
    return Outcome(
        coverage=_mean([trial.covered for trial in trials]),
        width=_mean([trial.width for trial in trials]),
        without=1 - sum(gave) / len(gave),
        rejected=_mean([trial.rejected for trial in trials]),
        false_discovery_rate=_mean([trial.false_discoveries for trial in trials]),
        found=_mean([trial.found for trial in trials]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    covered: float | None = None
    width: float | None = None
    rejected: float | None = None
    false_discoveries: float | None = None
    found: float | None = None


def _trial(case: Case, rng: np.random.Generator) -> _Trial:
    match case:
        case ValueCase():
            column = draw(case.scores, case.num_examples, rng)
            return _of_interval(aggregate(column, case.scores.metric, LABELS).interval, case.scores.truth, None)
        case PairCase():
            a, b = draw_together((case.a, case.b), case.rho, case.num_examples, rng)
            found = paired_difference(a, b, case.a.metric, LABELS)
            return _of_interval(found.interval, case.truth, found.p_value)
        case ManyCase():
            return _of_many(case, rng)


def _of_interval(interval: Interval, truth: float, p_value: float | None) -> _Trial:
    rejected = None if p_value is None else float(p_value < SIGNIFICANCE)
    low, high, _ = interval
    if low is None or high is None:
        return _Trial(rejected=rejected)
    return _Trial(covered=float(low - TOLERANCE <= truth <= high + TOLERANCE), width=high - low, rejected=rejected)


def _of_many(case: ManyCase, rng: np.random.Generator) -> _Trial:
    systems = [case.baseline] * case.num_equal + [case.better] * case.num_better
    baseline, *others = draw_together([case.baseline, *systems], case.rho, case.num_examples, rng)
    found = [paired_difference(other, baseline, case.baseline.metric) for other in others]
    adjusted = benjamini_hochberg([difference.p_value for difference in found])
    called = [p_value is not None and p_value < SIGNIFICANCE for p_value in adjusted]
    num_wrong = sum(called[: case.num_equal])
    return _Trial(
        false_discoveries=num_wrong / max(1, sum(called)),
        found=sum(called[case.num_equal :]) / case.num_better if case.num_better else None,
    )


def _mean(values: list[float | None]) -> Estimate:
    """The mean of the known values.

    A share that no trial, or every one, agrees with has an error too: a trial for and one against are added to its.
    """
    known = [value for value in values if value is not None]
    if not known:
        return Estimate(value=None, standard_error=None)
    doubted = [*known, 0.0, 1.0] if np.isin(known, (0.0, 1.0)).all() else known
    return Estimate(value=float(np.mean(known)), standard_error=float(np.std(doubted)) / math.sqrt(len(known)))
