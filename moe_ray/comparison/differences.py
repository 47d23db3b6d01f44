"""Paired differences between systems, as records with a verdict."""

import itertools
from collections.abc import Mapping, Sequence

from moe_ray.comparison.columns import Column, ScoreMatrix
from moe_ray.comparison.matrix import answered_only, no_conclusion
from moe_ray.comparison.records import AnsweredDifference, PairedComparison, Verdict
from moe_ray.comparison.statistics import Difference, benjamini_hochberg, paired_difference
from moe_ray.comparison.systems import REFERENCES, System, system_column
from moe_ray.proportions import Z_95
from moe_ray.scoring.score import Metric

SIGNIFICANCE = 0.05
Z_POWER = 0.8416212335729143  # the standard normal's 80 % quantile


def compare_systems(
    matrix: ScoreMatrix,
    systems: Sequence[System],
    domain_metrics: Mapping[str, Sequence[str]],
    metrics: Mapping[str, Metric],
    against: str,
) -> list[PairedComparison]:
    """The `contests` on every domain and metric; p-values adjusted over all of them."""
    return compare_pairs(matrix, contests(systems, against), domain_metrics, metrics)


def contests(systems: Sequence[System], against: str) -> list[tuple[System, System]]:
    """Which systems are compared: every policy but the `REFERENCES` with the system `against`.

    Where there is no such policy, each model with each later one; the one other model of two with `against` itself.
    """
    other = next((system for system in systems if system.name == against), None)
    policies = [one for one in systems if one.kind == "policy" and one is not other and one.name not in REFERENCES]
    if other is not None and policies:
        return [(one, other) for one in policies]
    models = [system for system in systems if system.kind == "model"]
    rest = [model for model in models if other is None or model.members != other.members]
    if other is not None and len(rest) == 1:
        return [(rest[0], other)]
    return list(itertools.combinations(models, 2))


def compare_pairs(
    matrix: ScoreMatrix,
    pairs: Sequence[tuple[System, System]],
    domain_metrics: Mapping[str, Sequence[str]],
    metrics: Mapping[str, Metric],
) -> list[PairedComparison]:
    """The first system of each pair minus the second, wherever both answer; p-values adjusted over all."""
    found = [
        _comparison(matrix, one, other, domain, metrics[name])
        for one, other in pairs
        for domain, names in domain_metrics.items()
        for name in names
        if domain in one.domains() and domain in other.domains()
    ]
    return adjust(found, metrics)


def adjust(comparisons: Sequence[PairedComparison], metrics: Mapping[str, Metric]) -> list[PairedComparison]:
    """`comparisons` with p-values adjusted over all of them, and their verdicts."""
    p_values = benjamini_hochberg([comparison.p_value for comparison in comparisons])
    return [_adjusted(item, p_value, metrics) for item, p_value in zip(comparisons, p_values, strict=True)]


def _comparison(matrix: ScoreMatrix, a: System, b: System, domain: str, metric: Metric) -> PairedComparison:
    columns = system_column(matrix, a, domain, metric.name), system_column(matrix, b, domain, metric.name)
    return compare_columns(columns, (a.name, b.name), domain, metric, matrix.gold_labels(domain, metric))


def compare_columns(
    columns: tuple[Column, Column], names: tuple[str, str], domain: str, metric: Metric, labels: Sequence[str]
) -> PairedComparison:
    """The first of `columns` minus the second, without adjustment and verdict; not tested where that is no use."""
    a, b = columns
    reason = no_conclusion(a, b, metric, *names)
    found = paired_difference(a, b, metric, labels, test=reason is None)
    has_failures = bool((a.failed | b.failed).any())
    answered = answered_only(a), answered_only(b)
    return PairedComparison(
        system_a=names[0],
        system_b=names[1],
        domain=domain,
        metric=metric.name,
        value_a=found.value_a,
        value_b=found.value_b,
        difference=found.difference,
        low=found.interval.low,
        high=found.interval.high,
        p_value=found.p_value,
        p_adjusted=None,
        test=found.test,
        n_pairs=found.num_pairs,
        n_dropped=found.num_dropped,
        n_failed_a=int(a.failed.sum()),
        n_failed_b=int(b.failed.sum()),
        answered=_answered(paired_difference(*answered, metric, labels, test=False)) if has_failures else None,
        detectable=detectable(found),
        not_concluded=reason,
        verdict="not_tested",
    )


def _answered(found: Difference) -> AnsweredDifference:
    return AnsweredDifference(
        value_a=found.value_a,
        value_b=found.value_b,
        difference=found.difference,
        low=found.interval.low,
        high=found.interval.high,
        n_pairs=found.num_pairs,
    )


def detectable(found: Difference) -> float | None:
    """The smallest difference that pairs like these show at p < 0.05 with a probability of 80 %, before adjustment.

    By the normal approximation, from the width of the difference's interval; None without an interval.
    """
    low, high = found.interval.low, found.interval.high
    return None if low is None or high is None else (high - low) / 2 * (Z_95 + Z_POWER) / Z_95


def _adjusted(
    comparison: PairedComparison, p_adjusted: float | None, metrics: Mapping[str, Metric]
) -> PairedComparison:
    higher_is_better = metrics[comparison.metric].higher_is_better
    verdict = verdict_of(comparison, p_adjusted, higher_is_better=higher_is_better)
    return comparison.model_copy(update={"p_adjusted": p_adjusted, "verdict": verdict})


def verdict_of(comparison: PairedComparison, p_adjusted: float | None, *, higher_is_better: bool) -> Verdict:
    """Which system is better, when the adjusted p-value is below SIGNIFICANCE."""
    difference = comparison.difference
    if comparison.not_concluded is not None:
        return "not_concluded"
    if difference is None or p_adjusted is None:
        return "not_tested"
    if p_adjusted >= SIGNIFICANCE or difference == 0:
        return "no_difference_shown"
    return "a_better" if (difference > 0) == higher_is_better else "b_better"
