"""From scores, telemetry and answer timings to the summary of a run. Pure: files in, files out are elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.comparison.analysis import analyse
from moe_ray.comparison.columns import BoolArray, Column, ScoreMatrix
from moe_ray.comparison.costs import cell_costs, example_costs
from moe_ray.comparison.differences import compare_systems
from moe_ray.comparison.failures import answered_only, uncounted_failures
from moe_ray.comparison.intervals import NO_INTERVAL
from moe_ray.comparison.records import AnsweredValue, MetricInfo, MetricValue, RunInfo, Summary, SystemInfo
from moe_ray.comparison.resources import TIMING_COLUMNS, model_resources
from moe_ray.comparison.routing_summary import routing_summary
from moe_ray.comparison.statistics import Aggregate, aggregate
from moe_ray.comparison.systems import BASELINE, System, picked_by, system_column
from moe_ray.comparison.truncation import NUM_TRUNCATED, cut_answers, truncated_prompts
from moe_ray.scoring.score import Metric
from moe_ray.scoring.table import Scores
from moe_ray.store.records import Manifest, ReplicaTelemetry
from moe_ray.store.routes import Routes

SUMMARY_COLUMNS = (*TIMING_COLUMNS, NUM_TRUNCATED)


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
    defaults to the standard ones, with those behind the router where there are `routes`; which of them are compared is
    what `contests` says of them and of the system named `against`.
    """
    found = analyse(scores, metrics, manifest, routes)
    matrix, run, metrics, domain_metrics = found.run.scores, found.run, found.metrics, found.domain_metrics
    names = list(manifest.models), list(manifest.domains)
    cut = truncated_prompts(answers, *names)
    answers = answers.select(list(TIMING_COLUMNS))
    domains = list(domain_metrics)
    chosen = list(systems) if systems is not None else list(found.systems)
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
        cut_answers=cut_answers(answers, *names),
        routing=None if routes is None else routing_summary(manifest, run, chosen, routes, found.asked, cells),
    )


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
    labels = matrix.gold_labels(domain, metric)
    found = aggregate(column, metric, labels)
    reason = _not_counted(matrix, column, system, domain, metric)
    shown = Aggregate(None, NO_INTERVAL, found.num_scored, found.num_unscored) if reason else found
    return MetricValue(
        system=system.name,
        domain=domain,
        metric=metric.name,
        value=shown.value,
        low=shown.interval.low,
        high=shown.interval.high,
        interval=shown.interval.method,
        n=shown.num_scored,
        n_unscored=shown.num_unscored,
        unscored_reasons=_reasons(column, ~column.scored),
        n_failed=int(column.failed.sum()),
        failed_reasons=_reasons(column, column.failed),
        answered=_answered_value(aggregate(answered_only(column), metric, labels)) if column.failed.any() else None,
        not_concluded=reason,
    )


def _reasons(column: Column, where: BoolArray) -> dict[str, int]:
    return dict(sorted(Counter(column.reasons[where].tolist()).items()))


def _not_counted(matrix: ScoreMatrix, column: Column, system: System, domain: str, metric: Metric) -> str | None:
    num_failed = uncounted_failures(matrix, column, domain, metric)
    if not num_failed:
        return None
    share = f"{num_failed} of {len(column.values)} examples"
    return f"{metric.name} has no worst value that a failure could count as, and {system.name} failed on {share}"


def _answered_value(found: Aggregate) -> AnsweredValue:
    return AnsweredValue(value=found.value, low=found.interval.low, high=found.interval.high, n=found.num_scored)


def _run_info(manifest: Manifest, answers: pa.Table) -> RunInfo:
    errors = pc.sum(pc.equal(answers.column("finish_reason"), "error"), min_count=0).as_py()
    complete = bool(manifest.sessions) and manifest.sessions[-1].status == "complete" and not manifest.given_up
    return RunInfo(
        name=manifest.name,
        description=manifest.description,
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
