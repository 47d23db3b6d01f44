"""From scores, telemetry and answer timings to the summary of a run. Pure: files in, files out are elsewhere."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.comparison.columns import ScoreMatrix, score_matrix
from moe_ray.comparison.costs import cell_costs, example_costs
from moe_ray.comparison.paired import Difference, benjamini_hochberg, paired_difference
from moe_ray.comparison.records import (
    MetricInfo,
    MetricValue,
    PairedComparison,
    RunInfo,
    Summary,
    SystemInfo,
    Verdict,
)
from moe_ray.comparison.reference_systems import best_single_system, oracle_system, random_system
from moe_ray.comparison.resources import TIMING_COLUMNS, model_resources
from moe_ray.comparison.routed_systems import RoutedExamples, cascade_system, routed_examples, routed_system
from moe_ray.comparison.routing_summary import routing_summary
from moe_ray.comparison.run_matrix import RunMatrix
from moe_ray.comparison.statistics import aggregate
from moe_ray.comparison.systems import BASELINE, REFERENCES, System, picked_by, standard_systems, system_column
from moe_ray.comparison.truncation import NUM_TRUNCATED, truncated_prompts
from moe_ray.scoring.score import Metric
from moe_ray.scoring.table import Scores
from moe_ray.store.records import Manifest, ReplicaTelemetry
from moe_ray.store.routes import Routes

SIGNIFICANCE = 0.05
SUMMARY_COLUMNS = (*TIMING_COLUMNS, NUM_TRUNCATED)
HEADLINE_METRICS = ("pass@1", "accuracy", "final_number", "rouge_l")


def summarise(
    scores: Scores,
    metrics: Mapping[str, Metric],
    manifest: Manifest,
    telemetry: Sequence[ReplicaTelemetry],
    answers: pa.Table,
    *,
    systems: Sequence[System] | None = None,
    against: str = BASELINE,
    routes: Routes | None = None,
) -> Summary:
    """Summarise a run.

    `answers` needs `TIMING_COLUMNS` only; without `NUM_TRUNCATED` it is unknown which prompts were cut. `systems`
    defaults to the standard ones, with those behind the router where there are `routes`; every policy among them but
    the `REFERENCES` is compared with the system named `against`, where there is one.
    """
    matrix = score_matrix(scores)
    cut = truncated_prompts(answers, list(manifest.models), list(manifest.domains))
    answers = answers.select(list(TIMING_COLUMNS))
    found = {domain: _ordered(metrics, matrix.metrics_of(domain)) for domain in manifest.domains}
    domain_metrics = {domain: names for domain, names in found.items() if names}
    domains = list(domain_metrics)
    run = RunMatrix(
        scores=matrix,
        headlines={domain: metrics[names[0]] for domain, names in domain_metrics.items()},
        models=list(manifest.models),
        baseline=manifest.baseline,
        experts=manifest.experts,
    )
    asked = {} if routes is None else routed_examples(run, routes)
    chosen = list(systems) if systems is not None else _standard(run, routes, asked)
    resources = model_resources(list(manifest.models), telemetry, answers)
    cells = cell_costs(answers, resources, matrix.example_ids)
    return Summary(
        run=_run_info(manifest, answers),
        metrics={name: metric_info(metric) for name, metric in metrics.items()},
        domain_metrics=domain_metrics,
        systems=[_system_info(matrix, system, domains) for system in chosen],
        values=_values(matrix, chosen, domain_metrics, metrics),
        comparisons=compare_systems(matrix, chosen, domain_metrics, metrics, against),
        models=resources,
        costs=example_costs(matrix, chosen, domains, cells),
        truncated_prompts=cut,
        routing=None if routes is None else routing_summary(manifest, run, chosen, routes, asked, cells),
    )


def _ordered(metrics: Iterable[str], present: frozenset[str]) -> list[str]:
    """The metrics of a domain in their order, the one that headlines speak of first."""
    names = [name for name in metrics if name in present]
    first = next((name for name in HEADLINE_METRICS if name in present), None)
    return sorted(names, key=lambda name: name != first)


def _standard(run: RunMatrix, routes: Routes | None, asked: Mapping[str, RoutedExamples]) -> list[System]:
    """The standard systems, those behind the router, what those are measured by, and the models alone."""
    found = standard_systems(
        run.scores, domains=list(run.headlines), models=run.models, baseline=run.baseline, experts=run.experts
    )
    behind: list[System | None] = []
    if routes is not None and asked:
        behind.append(routed_system(run, asked))
        behind.append(cascade_system(run, asked, run.baseline, routes.threshold) if run.baseline else None)
    if routes is not None or run.is_full:
        behind += [oracle_system(run), random_system(run), best_single_system(run)]
    policies = [system for system in found if system.kind == "policy"]
    alone = [system for system in found if system.kind == "model"]
    return [*policies, *(system for system in behind if system is not None), *alone]


def metric_info(metric: Metric) -> MetricInfo:
    """What the summary says about a metric."""
    return MetricInfo(
        definition=metric.definition,
        aggregation=metric.aggregation,
        higher_is_better=metric.higher_is_better,
        binary=metric.binary,
        worst=metric.worst,
        unit=metric.unit,
    )


def _system_info(matrix: ScoreMatrix, system: System, domains: Sequence[str]) -> SystemInfo:
    picks = {
        domain: {
            model: int(where.sum()) for model, where in picked_by(system.picks(domain, matrix.example_ids[domain]))
        }
        for domain in domains
        if domain in system.domains()
    }
    return SystemInfo(name=system.name, kind=system.kind, definition=system.definition, picks=picks)


def _values(
    matrix: ScoreMatrix,
    systems: Sequence[System],
    domain_metrics: Mapping[str, Sequence[str]],
    metrics: Mapping[str, Metric],
) -> list[MetricValue]:
    return [
        metric_value(matrix, system, domain, metrics[name])
        for domain, names in domain_metrics.items()
        for name in names
        for system in systems
        if domain in system.domains()
    ]


def metric_value(matrix: ScoreMatrix, system: System, domain: str, metric: Metric) -> MetricValue:
    """One metric of one system on one domain."""
    column = system_column(matrix, system, domain, metric.name)
    found = aggregate(column, metric, matrix.gold_labels(domain, metric.name))
    reasons = Counter(column.reasons[~column.scored].tolist())
    return MetricValue(
        system=system.name,
        domain=domain,
        metric=metric.name,
        value=found.value,
        low=found.interval.low,
        high=found.interval.high,
        interval=found.interval.method,
        n=found.num_scored,
        n_unscored=found.num_unscored,
        unscored_reasons=dict(sorted(reasons.items())),
    )


def compare_systems(
    matrix: ScoreMatrix,
    systems: Sequence[System],
    domain_metrics: Mapping[str, Sequence[str]],
    metrics: Mapping[str, Metric],
    against: str,
) -> list[PairedComparison]:
    """Every policy but the `REFERENCES` minus the system `against`; p-values adjusted over all of them."""
    other = next((system for system in systems if system.name == against), None)
    if other is None:
        return []
    found = [
        _comparison(matrix, system, other, domain, metrics[name])
        for system in systems
        if system.kind == "policy" and system is not other and system.name not in REFERENCES
        for domain, names in domain_metrics.items()
        for name in names
        if domain in system.domains() and domain in other.domains()
    ]
    adjusted = benjamini_hochberg([comparison.p_value for comparison in found])
    return [_adjust(comparison, p_value, metrics) for comparison, p_value in zip(found, adjusted, strict=True)]


def _comparison(matrix: ScoreMatrix, a: System, b: System, domain: str, metric: Metric) -> PairedComparison:
    column_a, column_b = (system_column(matrix, system, domain, metric.name) for system in (a, b))
    labels = matrix.gold_labels(domain, metric.name)
    return comparison_record(paired_difference(column_a, column_b, metric, labels), a.name, b.name, domain, metric.name)


def comparison_record(found: Difference, a: str, b: str, domain: str, metric: str) -> PairedComparison:
    """A difference as a record, without adjustment and verdict."""
    return PairedComparison(
        system_a=a,
        system_b=b,
        domain=domain,
        metric=metric,
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
        verdict="not_tested",
    )


def _adjust(comparison: PairedComparison, p_adjusted: float | None, metrics: Mapping[str, Metric]) -> PairedComparison:
    higher_is_better = metrics[comparison.metric].higher_is_better
    verdict = verdict_of(comparison.difference, p_adjusted, higher_is_better=higher_is_better)
    return comparison.model_copy(update={"p_adjusted": p_adjusted, "verdict": verdict})


def verdict_of(difference: float | None, p_adjusted: float | None, *, higher_is_better: bool) -> Verdict:
    """Who is better, when the adjusted p-value is below SIGNIFICANCE."""
    if difference is None or p_adjusted is None:
        return "not_tested"
    if p_adjusted >= SIGNIFICANCE or difference == 0:
        return "no_difference_shown"
    return "a_better" if (difference > 0) == higher_is_better else "b_better"


def _run_info(manifest: Manifest, answers: pa.Table) -> RunInfo:
    errors = pc.sum(pc.equal(answers.column("finish_reason"), "error"), min_count=0).as_py()
    complete = bool(manifest.sessions) and manifest.sessions[-1].status == "complete" and not manifest.given_up
    return RunInfo(
        name=manifest.name,
        moe_ray_version=manifest.moe_ray_version,
        created_at=manifest.created_at,
        complete=complete,
        num_cells_done=answers.num_rows,
        num_answers_with_error=errors,
        num_cells_given_up=sum(item.num_cells for item in manifest.given_up),
        given_up=manifest.given_up,
        sessions=manifest.sessions,
        notes=manifest.notes,
        baseline=manifest.baseline,
        experts=manifest.experts,
        identity=manifest.identity,
        models=manifest.models,
        domains=manifest.domains,
        prompts=manifest.prompts,
        sandbox=manifest.sandbox,
    )
