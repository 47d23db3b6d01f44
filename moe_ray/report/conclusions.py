"""Conclusions in words: effects with their intervals, and rankings."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from moe_ray.comparison.records import PairedComparison, Summary
from moe_ray.formatting import interval, listed, number, signed, words
from moe_ray.report.views import DomainView, MetricView, beats, spoken, the

STEPS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
MIN_LIMIT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A difference, `system` minus `other`, on a line whose middle is zero.

    In the right half `system` is better, in the left half `other`. `at`, `start` and `end` are places in percent of the
    line, `start` and `end` None where there is no interval. `left` and `right` are the differences at the line's ends,
    `described` is all of it in words.
    """

    system: str
    other: str
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
        other=comparison.system_b,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainVerdict:
    """One domain's sentence, by its first metric. `winner` is a system, or None when no difference was shown or tested.

    `expert` is the model that answers for the experts. `open_reason` says why nothing was concluded, if so. `failures`
    tells which system failed how often, `others` what the other metrics show where that is something else, `figures`
    how certain the sentence is, and `cost` what an example costs on both sides. `is_lost`: the contest's other system
    won.
    """

    domain: str
    expert: str | None
    metric: str
    winner: str | None
    sentence: str
    is_lost: bool = False
    open_reason: str = ""
    failures: str = ""
    others: str = ""
    figures: str = ""
    cost: str = ""
    effect: Effect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The one sentence of the run, what it costs, and a verdict for each domain.

    `also` says how the other ways of using the same experts fare, `cost` what was measured; both may be empty.
    """

    sentence: str
    also: str
    cost: str
    domains: tuple[DomainVerdict, ...]


def in_all(num_domains: int) -> str:
    """ "in the one domain tested", "in both domains"."""
    if num_domains == 1:
        return "in the one domain tested"
    return "in both domains" if num_domains == 2 else f"in all {num_domains} domains"


def in_any(num_domains: int) -> str:
    """ "in the one domain tested", "in any of the 3 domains"."""
    return "in the one domain tested" if num_domains == 1 else f"in any of the {num_domains} domains"


def ranked_headline(summary: Summary, views: Sequence[DomainView]) -> Headline:
    """Which model beats all that it was compared with, by each domain's first metric."""
    verdicts = tuple(_verdict(summary, view) for view in views)
    return Headline(sentence=_lead([item for item in verdicts if item.figures]), also="", cost="", domains=verdicts)


def _verdict(summary: Summary, view: DomainView) -> DomainVerdict:
    metric = view.metrics[0]
    items = metric.comparisons
    models = list(dict.fromkeys(name for item in items for name in (item.system_a, item.system_b)))
    beaten = _beaten(items)
    first = next((name for name in models if models and len(beaten[name]) == len(models) - 1), None)
    tested = [item for item in items if item.verdict not in ("not_tested", "not_concluded")]
    reason = "; ".join(dict.fromkeys(item.not_concluded for item in items if item.not_concluded))
    wins = [f"{beats(name)} {listed([the(loser) for loser in beaten[name]])}" for name in models if beaten[name]]
    found = {name: summary.value(name, view.name, metric.name) for name in models}
    values = ", ".join(f"{spoken(name)} {number(value.value)}" for name, value in found.items() if value is not None)
    claim = "; ".join(wins) if wins else "No difference was shown between any two" if tested else "Not concluded"
    notes = f" Not concluded: {reason}." if reason else ""
    return DomainVerdict(
        domain=view.name,
        expert=None,
        metric=metric.title,
        winner=first,
        sentence=f"{claim} ({metric.title}: {values}).{notes}",
        open_reason="" if tested else reason,
        figures=f"{len(tested)} pairs of models tested, p adjusted over all" if tested else "",
    )


def _beaten(items: Sequence[PairedComparison]) -> dict[str, list[str]]:
    """The models that each model is shown to be better than."""
    found: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if item.verdict == "a_better":
            found[item.system_a].append(item.system_b)
        elif item.verdict == "b_better":
            found[item.system_b].append(item.system_a)
    return found


def _lead(tested: Sequence[DomainVerdict]) -> str:
    if not tested:
        return "Nothing can be concluded about the models of this run; each domain gives its reason."
    by = f"by {listed(list(dict.fromkeys(verdict.metric for verdict in tested)))}"
    winners = list(dict.fromkeys(verdict.winner for verdict in tested))
    if winners == [None]:
        return f"No model is shown to beat all others {in_any(len(tested))}, {by}."
    if len(winners) == 1 and winners[0] is not None:
        return f"{winners[0]} beats every other model {in_all(len(tested))}, {by}."
    parts = []
    for winner in winners:
        places = listed([f"{words(item.domain)} ({item.metric})" for item in tested if item.winner == winner])
        parts.append(f"{winner} beats every other model in {places}" if winner else f"none does so in {places}")
    parts.sort(key=lambda part: part.startswith("none "))
    return f"{'; '.join(parts)}."
