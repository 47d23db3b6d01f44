"""Compare two runs, or two systems of one run: their settings and their results."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from moe_ray.comparison.columns import Column, ScoreMatrix
from moe_ray.comparison.differences import adjust, compare_columns, compare_pairs
from moe_ray.comparison.matrix import answered_only
from moe_ray.comparison.records import MetricInfo, MetricValue, PairedComparison, Summary
from moe_ray.comparison.summary import Analysis
from moe_ray.comparison.systems import BEST_SINGLE, ORACLE, REFERENCES, System, system_column
from moe_ray.errors import UserError
from moe_ray.files import StoredRecord
from moe_ray.fingerprint import canonical_json
from moe_ray.scoring.score import Metric

ABSENT = "(absent)"
RUN_SETTINGS = ("moe_ray_version", "baseline", "experts", "identity", "models", "domains", "prompts")
ROUTER_SETTINGS = ("kind", "fingerprint", "threshold")
MAX_SIBLINGS = 6
MAX_NAMED = 3
MAX_VALUE_CHARS = 120
CHARS_BEFORE = 20


class Change(StoredRecord):
    """A setting that the runs do not share. Values are JSON texts, cut to where they differ, or "(absent)".

    `also` are the other keys of the same name that changed from the same value to the same value.
    """

    key: str
    first: str
    second: str
    also: list[str]


def run_changes(a: Summary, b: Summary) -> list[Change]:
    """Settings that differ, by dotted key. What the identity repeats of models and domains is not repeated."""
    same: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for key, first, second in _differences(_settings(a), _settings(b), ""):
        same[key.rpartition(".")[2], first, second].append(key)
    found = []
    for (_, first, second), keys in same.items():
        key, *also = sorted(keys, key=lambda one: (one.startswith("identity."), one))
        found.append(Change(key=key, first=_cut(first, second), second=_cut(second, first), also=also))
    return sorted(found, key=lambda change: change.key)


def _settings(summary: Summary) -> dict[str, Any]:
    settings = {part: getattr(summary.run, part) for part in RUN_SETTINGS}
    if summary.routing is None:
        return settings
    about = summary.routing.router
    return settings | {"router": {part: about[part] for part in ROUTER_SETTINGS if part in about}}


def _differences(first: Any, second: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Key, first and second value of what differs; many differences in one mapping are one, with their number."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        if first != second:
            yield key, canonical_json(first), canonical_json(second)
        return
    names = sorted({*first, *second})
    differ = [name for name in names if name not in first or name not in second or first[name] != second[name]]
    if len(differ) > MAX_SIBLINGS and not any(
        isinstance(one.get(n), Mapping) for one in (first, second) for n in differ
    ):
        shown = ", ".join(differ[:MAX_NAMED])
        yield key, f"{len(differ)} of {len(names)} entries differ", f"{shown} and {len(differ) - MAX_NAMED} more"
        return
    for name in differ:
        place = f"{key}.{name}" if key else str(name)
        if name in first and name in second:
            yield from _differences(first[name], second[name], place)
        else:
            yield place, _told(first, name), _told(second, name)


def _told(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return ABSENT
    value = settings[name]
    return f"{len(value)} entries" if isinstance(value, Mapping) and value else canonical_json(value)


def _cut(text: str, other: str) -> str:
    """A long text from shortly before the place where the two part."""
    if len(text) <= MAX_VALUE_CHARS:
        return text
    parts = (at for at, (one, two) in enumerate(zip(text, other, strict=False)) if one != two)
    start = max(0, min(next(parts, len(other)), len(text)) - CHARS_BEFORE)
    end = start + MAX_VALUE_CHARS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


FIRST, SECOND = "first run", "second run"


class ScoredRun(NamedTuple):
    """A run's summary, and the scores and systems behind it."""

    summary: Summary
    analysis: Analysis


class SharedExamples(StoredRecord):
    """How many examples of a domain both runs have, and how many only one of them."""

    shared: int
    only_first: int
    only_second: int


class ValuePair(StoredRecord):
    """One metric of one system on one domain in both runs.

    `change` is the second run minus the first on the examples that both have; None for a metric that was redefined, and
    for systems that are chosen by the scores themselves (oracle, best_single) or drawn (random).
    """

    first: MetricValue
    second: MetricValue
    change: PairedComparison | None


class RunComparison(StoredRecord):
    """What two runs have in common, and what not."""

    first: str
    second: str
    changes: list[Change]
    examples: dict[str, SharedExamples]
    metrics: dict[str, MetricInfo]
    redefined_metrics: list[str]
    pairs: list[ValuePair]
    only_first: list[str]
    only_second: list[str]


class SystemComparison(StoredRecord):
    """Two systems of one run on the same examples: `comparisons` are a minus b, of every metric of every domain.

    `headlines` has the metric that each domain's verdict is about; `definitions` say who answers in either system.
    """

    run: str
    system_a: str
    system_b: str
    definitions: dict[str, str]
    metrics: dict[str, MetricInfo]
    headlines: dict[str, str]
    comparisons: list[PairedComparison]


def compare_runs(a: ScoredRun, b: ScoredRun) -> RunComparison:
    """Compare run `b` with run `a`, wherever a system, domain and metric is in both. p-values are adjusted over all."""
    first, second = a.summary, b.summary
    of_second = {_place(value): value for value in second.values}
    shared = [name for name in first.metrics if name in second.metrics]
    redefined = [name for name in shared if _meaning(first.metrics[name]) != _meaning(second.metrics[name])]
    over = _over_the_same_examples(a.analysis.run.scores, b.analysis.run.scores)
    found = [
        ValuePair(first=value, second=of_second[place], change=_change(a, b, over[value.domain], value, redefined))
        for value in first.values
        if (place := _place(value)) in of_second
    ]
    return RunComparison(
        first=first.run.name,
        second=second.run.name,
        changes=run_changes(first, second),
        examples=_shared_examples(a.analysis.run.scores, b.analysis.run.scores),
        metrics={name: first.metrics[name] for name in shared},
        redefined_metrics=redefined,
        pairs=_with_verdicts(found, a.analysis.metrics),
        only_first=sorted({" / ".join(_place(value)) for value in first.values if _place(value) not in of_second}),
        only_second=sorted(" / ".join(place) for place in set(of_second) - {_place(value) for value in first.values}),
    )


def _place(value: MetricValue) -> tuple[str, str, str]:
    return value.system, value.domain, value.metric


def _meaning(metric: MetricInfo) -> MetricInfo:
    """A metric without what follows from the scores of its run."""
    return metric.model_copy(update={"worst": None})


def _over_the_same_examples(a: ScoreMatrix, b: ScoreMatrix) -> dict[str, tuple[ScoreMatrix, ScoreMatrix]]:
    """Both matrices over the examples that both have, by domain."""
    domains = [domain for domain in a.example_ids if domain in b.example_ids]
    shared = {domain: sorted({*a.example_ids[domain]} & {*b.example_ids[domain]}) for domain in domains}
    return {domain: (a.over(domain, ids), b.over(domain, ids)) for domain, ids in shared.items()}


def _shared_examples(a: ScoreMatrix, b: ScoreMatrix) -> dict[str, SharedExamples]:
    found = {}
    for domain in a.example_ids:
        if domain in b.example_ids:
            first, second = {*a.example_ids[domain]}, {*b.example_ids[domain]}
            found[domain] = SharedExamples(
                shared=len(first & second), only_first=len(first - second), only_second=len(second - first)
            )
    return found


def _change(
    a: ScoredRun,
    b: ScoredRun,
    matrices: tuple[ScoreMatrix, ScoreMatrix],
    value: MetricValue,
    redefined: Sequence[str],
) -> PairedComparison | None:
    """The paired difference on the examples of both runs."""
    if value.system in REFERENCES or value.metric in redefined:
        return None
    metrics = [run.analysis.metrics[value.metric] for run in (a, b)]
    metric = metrics[0] if metrics[1].worst is not None else metrics[1]
    second, first = (
        _column(run.analysis, matrix, value, metric) for run, matrix in zip((b, a), reversed(matrices), strict=True)
    )
    labels = {label for matrix in matrices for label in matrix.gold_labels(value.domain, metric)}
    return compare_columns((second, first), (SECOND, FIRST), value.domain, metric, sorted(labels))


def _column(analysis: Analysis, matrix: ScoreMatrix, value: MetricValue, metric: Metric) -> Column:
    column = system_column(matrix, system_named(analysis.systems, value.system), value.domain, value.metric)
    return answered_only(column) if metric.worst is None else column


def _with_verdicts(pairs: Sequence[ValuePair], metrics: Mapping[str, Metric]) -> list[ValuePair]:
    changes = iter(adjust([pair.change for pair in pairs if pair.change is not None], metrics))
    return [pair.model_copy(update={"change": next(changes)}) if pair.change else pair for pair in pairs]


def compare_within(run: ScoredRun, name_a: str, name_b: str) -> SystemComparison:
    """Compare two systems or models of one run. Raises `UserError` for a name that it lacks."""
    found = run.analysis
    a, b = (system_named(found.systems, name) for name in (name_a, name_b))
    domains = {domain: names for domain, names in found.domain_metrics.items() if domain in a.domains() & b.domains()}
    if a is b or not domains:
        why = "are the same system" if a is b else "answer no domain in common"
        raise UserError(f"{name_a} and {name_b} {why}", remedy="name two systems that answer the same domain")
    compared = compare_pairs(found.run.scores, [(a, b)], domains, found.metrics)
    return SystemComparison(
        run=run.summary.run.name,
        system_a=a.name,
        system_b=b.name,
        definitions={system.name: system.definition for system in (a, b)},
        metrics={name: run.summary.metrics[name] for names in domains.values() for name in names},
        headlines={domain: names[0] for domain, names in domains.items()},
        comparisons=[_unless_chosen(item) for item in compared],
    )


def _unless_chosen(item: PairedComparison) -> PairedComparison:
    """A p-value of something that was chosen by its scores says nothing."""
    chosen = [name for name in (item.system_a, item.system_b) if name in (ORACLE, BEST_SINGLE)]
    if not chosen or item.not_concluded:
        return item
    why = f"{chosen[0]} is chosen by the very scores that a test would be about"
    changed = {"p_value": None, "p_adjusted": None, "test": None, "not_concluded": why, "verdict": "not_concluded"}
    return item.model_copy(update=changed)


def system_named(systems: Sequence[System], name: str) -> System:
    """The system of that name. Raises `UserError` where there is none."""
    found = next((system for system in systems if system.name == name), None)
    if found is None:
        known = ", ".join(system.name for system in systems)
        raise UserError(
            f"no system {name!r} in this run", remedy=f"systems and models that answered whole domains: {known}"
        )
    return found
