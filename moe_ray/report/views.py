"""The view of a summary: which systems are shown, in which order, under which name."""

from dataclasses import dataclass

from moe_ray.comparison.records import AnsweredDifference, MetricValue, PairedComparison, Summary, SystemInfo
from moe_ray.comparison.systems import BASELINE, EXPERTS, ORACLE, POLICIES, RANDOM, ROUTED
from moe_ray.formatting import words

BOUNDS = {ORACLE: "{side} bound of {metric}", RANDOM: "drawn by chance"}
# Policies that are spoken of as several.
SUBJECTS = {EXPERTS: "experts", ROUTED: "routed experts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRow:
    """One system on one domain. `model` is set where a single model answers all of the domain.

    `series` is its place in the page's colours and marks. `bound` says what a reference policy bounds.
    """

    system: str
    model: str | None
    is_policy: bool
    series: int
    bound: str = ""

    @property
    def title(self) -> str:
        """The name as it is written: a policy's in words, a model's as it is."""
        return words(self.system) if self.is_policy else self.system

    @property
    def label(self) -> str:
        """Name and, for a policy, what it bounds and who answers."""
        about = ", ".join(part for part in (self.bound, self.model) if part) if self.is_policy else ""
        return f"{self.title} ({about})" if about else self.title


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricView:
    """One metric on one domain, by system."""

    name: str
    title: str
    definition: str
    unit: str
    higher_is_better: bool
    values: tuple[tuple[SystemRow, MetricValue], ...]
    comparisons: tuple[PairedComparison, ...]
    worst: float | None = None

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainView:
    """One domain. The first metric is the one that headlines speak of."""

    name: str
    expert: str | None
    rows: tuple[SystemRow, ...]
    metrics: tuple[MetricView, ...]


def domain_views(summary: Summary) -> list[DomainView]:
    """All domains that have scores."""
    return [_domain(summary, name) for name in summary.domain_metrics]


def _domain(summary: Summary, domain: str) -> DomainView:
    rows = system_rows(summary, domain)
    metrics = tuple(_metric(summary, domain, name, rows) for name in summary.domain_metrics[domain])
    return DomainView(name=domain, expert=summary.run.experts.get(domain), rows=rows, metrics=metrics)


def series_of(summary: Summary) -> dict[str, int]:
    """The colour and mark of each system and model, the same on the whole page.

    The baseline's model bears the baseline's: it is the same thing under two names. Behind a router, the routed
    experts bear what the experts bear without one, for it is they whom the page is about.
    """
    same = {summary.run.baseline: BASELINE} if summary.run.baseline else {}
    names = [system.name for system in summary.systems] + list(summary.models)
    places = {name: at for at, name in enumerate(dict.fromkeys(same.get(name, name) for name in names))}
    if {ROUTED, EXPERTS} <= places.keys():
        places |= {ROUTED: places[EXPERTS], EXPERTS: places[ROUTED]}
    return places | {name: places[other] for name, other in same.items() if other in places}


def system_rows(summary: Summary, domain: str) -> tuple[SystemRow, ...]:
    """Systems to show on `domain`: policies, then bounds, then models alone.

    A model alone is left out where a policy is just that model.
    """
    series = series_of(summary)
    first = summary.domain_metrics[domain][0]
    side = "upper" if summary.metrics[first].higher_is_better else "lower"
    bounds = {name: text.format(side=side, metric=words(first)) for name, text in BOUNDS.items()}
    rows = [_row(system, domain, bounds, series[system.name]) for system in summary.systems if domain in system.picks]
    covered = {row.model for row in rows if row.is_policy and not row.bound}
    shown = (row for row in rows if row.is_policy or row.model not in covered)
    return tuple(sorted(shown, key=lambda row: (not row.is_policy, bool(row.bound))))


def _row(system: SystemInfo, domain: str, bounds: dict[str, str], series: int) -> SystemRow:
    models = list(system.picks[domain])
    model = models[0] if len(models) == 1 else None
    is_policy = system.kind == "policy"
    bound = bounds.get(system.name, "") if is_policy else ""
    return SystemRow(system=system.name, model=model, is_policy=is_policy, series=series, bound=bound)


def _metric(summary: Summary, domain: str, name: str, rows: tuple[SystemRow, ...]) -> MetricView:
    info = summary.metrics[name]
    values = ((row, summary.value(row.system, domain, name)) for row in rows)
    return MetricView(
        name=name,
        title=words(name),
        definition=info.definition,
        unit=info.unit,
        higher_is_better=info.higher_is_better,
        worst=info.worst,
        values=tuple((row, value) for row, value in values if value is not None),
        comparisons=tuple(item for item in summary.comparisons if (item.domain, item.metric) == (domain, name)),
    )


def spoken(system: str) -> str:
    """A policy's name as the subject of a sentence; a model's as it is."""
    return SUBJECTS.get(system, words(system)) if system in POLICIES else system


def the(system: str) -> str:
    """ "the experts", but a model's name alone."""
    return f"the {spoken(system)}" if system in POLICIES else system


def beats(system: str) -> str:
    """ "the experts beat", "the baseline beats"."""
    return f"{the(system)} {'beat' if system in SUBJECTS else 'beats'}"


def capital(sentence: str, subject: str | None) -> str:
    """`sentence` with a capital, unless it begins with a model's name, which stays as it is."""
    return sentence if subject is not None and subject not in POLICIES else f"{sentence[0].upper()}{sentence[1:]}"


def winner_first(comparison: PairedComparison) -> PairedComparison:
    """The comparison with the winner as system a, so that the difference and its interval are winner minus loser.

    Without a winner it is returned as it is.
    """
    if comparison.verdict != "b_better":
        return comparison
    answered = comparison.answered
    return comparison.model_copy(
        update={
            **_reversed(comparison),
            "system_a": comparison.system_b,
            "system_b": comparison.system_a,
            "n_failed_a": comparison.n_failed_b,
            "n_failed_b": comparison.n_failed_a,
            "answered": answered and answered.model_copy(update=_reversed(answered)),
            "verdict": "a_better",
        }
    )


def _reversed(found: PairedComparison | AnsweredDifference) -> dict[str, float | None]:
    return {
        "value_a": found.value_b,
        "value_b": found.value_a,
        "difference": _negative(found.difference),
        "low": _negative(found.high),
        "high": _negative(found.low),
    }


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value  # never -0.0


def winner_of(comparison: PairedComparison) -> str:
    """The better system, or a note that no difference was shown."""
    winners = {
        "a_better": words(comparison.system_a),
        "b_better": words(comparison.system_b),
        "not_tested": "not tested",
        "not_concluded": "not concluded",
    }
    return winners.get(comparison.verdict, "not shown")
