"""Two runs side by side: what differs in what was asked, and what differs in what came out."""

from collections.abc import Iterator, Mapping

from moe_ray.comparison.columns import ScoreMatrix, score_matrix
from moe_ray.comparison.paired import benjamini_hochberg, paired_difference
from moe_ray.comparison.records import MetricInfo, MetricValue, PairedComparison, Summary, SystemInfo
from moe_ray.comparison.summary import comparison_record, verdict_of
from moe_ray.comparison.systems import DomainSystem, system_column
from moe_ray.fingerprint import canonical_json
from moe_ray.scoring.score import Metric
from moe_ray.scoring.table import Scores
from moe_ray.store.records import StoredRecord

FIRST, SECOND = "first run", "second run"
ABSENT = "(absent)"
RUN_SETTINGS = ("moe_ray_version", "baseline", "experts", "identity", "models", "domains", "prompts")
ROUTER_SETTINGS = ("kind", "fingerprint", "threshold")


class Change(StoredRecord):
    """A setting that the runs do not share. Values are JSON texts, or "(absent)"."""

    key: str
    first: str
    second: str


class ValuePair(StoredRecord):
    """One metric of one system on one domain in both runs.

    `change` is the second run minus the first on the examples that both scored; None where the system picks by example,
    so that the summary alone does not say whose scores count.
    """

    first: MetricValue
    second: MetricValue
    change: PairedComparison | None


class RunComparison(StoredRecord):
    """What two runs have in common, and what not."""

    first: str
    second: str
    changes: list[Change]
    metrics: dict[str, MetricInfo]
    redefined_metrics: list[str]
    pairs: list[ValuePair]
    only_first: list[str]
    only_second: list[str]


def compare_runs(a: Summary, b: Summary, scores_a: Scores, scores_b: Scores) -> RunComparison:
    """Compare run `b` with run `a`, wherever a system, domain and metric is in both. p-values are adjusted over all."""
    matrices = _over_the_same_examples(score_matrix(scores_a), score_matrix(scores_b))
    second = {_place(value): value for value in b.values}
    found = [
        ValuePair(first=value, second=second[place], change=_change(a, b, matrices, value))
        for value in a.values
        if (place := _place(value)) in second
    ]
    shared = [name for name in a.metrics if name in b.metrics]
    return RunComparison(
        first=a.run.name,
        second=b.run.name,
        changes=list(run_changes(a, b)),
        metrics={name: a.metrics[name] for name in shared},
        redefined_metrics=[name for name in shared if a.metrics[name] != b.metrics[name]],
        pairs=_adjusted(found, a.metrics),
        only_first=sorted({" / ".join(_place(value)) for value in a.values if _place(value) not in second}),
        only_second=sorted(" / ".join(place) for place in set(second) - {_place(value) for value in a.values}),
    )


def _place(value: MetricValue) -> tuple[str, str, str]:
    return value.system, value.domain, value.metric


def _over_the_same_examples(a: ScoreMatrix, b: ScoreMatrix) -> dict[str, tuple[ScoreMatrix, ScoreMatrix]]:
    """Both matrices over the union of their examples, by domain."""
    shared = {domain: b.example_ids[domain] for domain in a.example_ids if domain in b.example_ids}
    unions = {domain: sorted({*a.example_ids[domain], *ids}) for domain, ids in shared.items()}
    return {domain: (a.over(domain, ids), b.over(domain, ids)) for domain, ids in unions.items()}


def _change(
    a: Summary, b: Summary, matrices: Mapping[str, tuple[ScoreMatrix, ScoreMatrix]], value: MetricValue
) -> PairedComparison | None:
    """The paired difference on the union of both runs' examples; an example of one run alone counts as dropped."""
    system_a, system_b = _domain_system(a, value), _domain_system(b, value)
    if system_a is None or system_b is None or a.metrics[value.metric] != b.metrics[value.metric]:
        return None
    matrix_a, matrix_b = matrices[value.domain]
    columns = [
        system_column(matrix, system, value.domain, value.metric)
        for matrix, system in ((matrix_b, system_b), (matrix_a, system_a))
    ]
    labels = {*matrix_a.gold_labels(value.domain, value.metric), *matrix_b.gold_labels(value.domain, value.metric)}
    metric = Metric(name=value.metric, **a.metrics[value.metric].model_dump())
    difference = paired_difference(columns[0], columns[1], metric, sorted(labels))
    return comparison_record(difference, SECOND, FIRST, value.domain, value.metric)


def _domain_system(summary: Summary, value: MetricValue) -> DomainSystem | None:
    """The system, where one model answers every example of the domain in it."""
    info: SystemInfo = next(system for system in summary.systems if system.name == value.system)
    picks = info.picks.get(value.domain, {})
    if list(picks.values()) != [value.n + value.n_unscored]:
        return None
    (model,) = picks
    return DomainSystem(name=info.name, definition=info.definition, kind=info.kind, models={value.domain: model})


def _adjusted(pairs: list[ValuePair], metrics: Mapping[str, MetricInfo]) -> list[ValuePair]:
    adjusted = benjamini_hochberg([pair.change.p_value if pair.change else None for pair in pairs])
    return [_with_verdict(pair, p_value, metrics) for pair, p_value in zip(pairs, adjusted, strict=True)]


def _with_verdict(pair: ValuePair, p_adjusted: float | None, metrics: Mapping[str, MetricInfo]) -> ValuePair:
    if pair.change is None:
        return pair
    higher_is_better = metrics[pair.change.metric].higher_is_better
    verdict = verdict_of(pair.change.difference, p_adjusted, higher_is_better=higher_is_better)
    change = pair.change.model_copy(update={"p_adjusted": p_adjusted, "verdict": verdict})
    return pair.model_copy(update={"change": change})


def run_changes(a: Summary, b: Summary) -> Iterator[Change]:
    """Settings that differ, by dotted key, in the order of the keys."""
    first, second = (dict(_flat(_settings(summary), "")) for summary in (a, b))
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            yield Change(key=key, first=first.get(key, ABSENT), second=second.get(key, ABSENT))


def _settings(summary: Summary) -> dict[str, object]:
    settings = {part: getattr(summary.run, part) for part in RUN_SETTINGS}
    if summary.routing is None:
        return settings
    about = summary.routing.router
    return settings | {"router": {part: about[part] for part in ROUTER_SETTINGS if part in about}}


def _flat(value: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, canonical_json(value)
