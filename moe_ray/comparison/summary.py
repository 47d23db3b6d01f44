"""From scores, telemetry and answer timings to the summary of a run. Pure functions, no file access."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.arrays import BoolArray
from moe_ray.comparison.columns import Column, ScoreMatrix, score_matrix
from moe_ray.comparison.costs import cell_costs, example_costs
from moe_ray.comparison.differences import compare_systems
from moe_ray.comparison.matrix import RunMatrix, answered_only, count_failures, countable_metrics, uncounted_failures
from moe_ray.comparison.policies import (
    RoutedExamples,
    best_single_system,
    cascade_system,
    oracle_system,
    random_system,
    routed_examples,
    routed_system,
)
from moe_ray.comparison.records import (
    AnsweredValue,
    CutAnswers,
    MetricInfo,
    MetricValue,
    RunInfo,
    Summary,
    SystemInfo,
    TruncatedPrompts,
)
from moe_ray.comparison.resampling import NO_INTERVAL
from moe_ray.comparison.resources import TIMING_COLUMNS, model_resources
from moe_ray.comparison.routing_summary import routing_summary
from moe_ray.comparison.statistics import Aggregate, aggregate
from moe_ray.comparison.systems import BASELINE, System, picked_by, standard_systems, system_column
from moe_ray.scoring.score import Metric, Scores
from moe_ray.store.records import Manifest, ReplicaTelemetry
from moe_ray.store.routes import Routes

HEADLINE_METRICS = ("pass@1", "accuracy", "final_number", "rouge_l")


class Analysis(NamedTuple):
    """The scores of a run as systems see them, their failures counted.

    `metrics` have the worst value that failures count as, `domain_metrics` each domain's in their order, `asked` what
    the router said, `systems` all that the run can show.
    """

    run: RunMatrix
    metrics: dict[str, Metric]
    domain_metrics: dict[str, list[str]]
    asked: dict[str, RoutedExamples]
    systems: tuple[System, ...]


def analyse(scores: Scores, metrics: Mapping[str, Metric], manifest: Manifest, routes: Routes | None) -> Analysis:
    """Arrange the scores of a run, count its failures, and find its systems."""
    raw = score_matrix(scores)
    metrics = countable_metrics([raw], metrics)
    found = {domain: _ordered(metrics, raw.metrics_of(domain)) for domain in manifest.domains}
    domain_metrics = {domain: names for domain, names in found.items() if names}
    run = RunMatrix(
        scores=count_failures(raw, metrics),
        headlines={domain: metrics[names[0]] for domain, names in domain_metrics.items()},
        models=list(manifest.models),
        baseline=manifest.baseline,
        experts=manifest.experts,
    )
    asked = {} if routes is None else routed_examples(run, routes)
    return Analysis(run, metrics, domain_metrics, asked, tuple(_standard(run, routes, asked)))


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


NUM_TRUNCATED = "num_truncated_tokens"


def truncated_prompts(answers: pa.Table, models: Sequence[str], domains: Sequence[str]) -> list[TruncatedPrompts]:
    """Counts by model and domain, of the answers that say how many tokens of their prompt were cut.

    A place of which no answer says it, or a table without that column, gives nothing: unknown is not none.
    """
    if NUM_TRUNCATED not in answers.column_names:
        return []
    known = answers.select(["model", "domain", NUM_TRUNCATED]).filter(pc.is_valid(answers.column(NUM_TRUNCATED)))
    cut = pc.cast(pc.greater(known.column(NUM_TRUNCATED), 0), pa.int64())
    aggregates = [("cut", "count"), ("cut", "sum"), (NUM_TRUNCATED, "max")]
    counted = known.append_column("cut", cut).group_by(["model", "domain"]).aggregate(aggregates)
    found = {(row["model"], row["domain"]): row for row in counted.to_pylist()}
    return [
        TruncatedPrompts(
            model=model,
            domain=domain,
            num_answers=row["cut_count"],
            num_truncated=row["cut_sum"],
            max_truncated_tokens=row[f"{NUM_TRUNCATED}_max"],
        )
        for model in models
        for domain in domains
        if (row := found.get((model, domain))) is not None
    ]


def cut_answers(answers: pa.Table, models: Sequence[str], domains: Sequence[str]) -> list[CutAnswers]:
    """Counts by model and domain, of the generated answers without an error, of those that the token limit ended."""
    drawn = answers.select(["model", "domain", "kind", "finish_reason"]).filter(
        (pc.field("kind") == "generate") & (pc.field("finish_reason") != "error")
    )
    is_cut = pc.cast(pc.equal(drawn.column("finish_reason"), "length"), pa.int64())
    aggregates = [("cut", "count"), ("cut", "sum")]
    counted = drawn.append_column("cut", is_cut).group_by(["model", "domain"]).aggregate(aggregates)
    found = {(row["model"], row["domain"]): row for row in counted.to_pylist()}
    return [
        CutAnswers(model=model, domain=domain, num_answers=row["cut_count"], num_cut=row["cut_sum"])
        for model in models
        for domain in domains
        if (row := found.get((model, domain))) is not None
    ]


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
