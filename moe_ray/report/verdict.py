"""The run's conclusion in plain words: who wins where, by how much, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

from moe_ray.comparison.records import PairedComparison, Summary
from moe_ray.comparison.systems import BASELINE, CASCADE, EXPERTS, ROUTED
from moe_ray.report.effect import Effect, effects
from moe_ray.report.format import NO_BREAK, interval, listed, number, p_phrase, plural, words
from moe_ray.report.price import Price, price_line, price_of, price_sentence
from moe_ray.report.views import SUBJECTS, DomainView, MetricView, domain_views, spoken

OTHER_WAYS = {
    CASCADE: f"the {CASCADE} (what the router calls foreign goes to the {BASELINE})",
    EXPERTS: "the gold domains' experts (a router without a mistake)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainVerdict:
    """One domain's sentence, by its first metric. `winner` is a system, or None when no difference was shown or tested.

    `expert` is the model that answers for the experts. `others` says what the other metrics show where that is
    something else, `figures` how sure the sentence is, and `cost` what an example costs on both sides.
    """

    domain: str
    expert: str | None
    metric: str
    winner: str | None
    sentence: str
    others: str
    figures: str
    cost: str
    effect: Effect | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The one sentence about `system`, what it costs, and a verdict for each domain.

    `also` says how the other ways of using the same experts fare, `cost` what was measured; both may be empty.
    """

    system: str
    sentence: str
    also: str
    cost: str
    domains: tuple[DomainVerdict, ...]


def headline(summary: Summary, system: str | None = None) -> Headline:
    """Conclude from each domain's first metric, and name it; by default about the experts, behind the router if any."""
    views = domain_views(summary)
    system = system or _leading(summary)
    verdicts, prices = _verdicts(summary, views, system)
    return Headline(
        system=system,
        sentence=_lead(verdicts, system),
        also=_also(summary, views, verdicts) if system == ROUTED else "",
        cost=price_sentence(prices, system),
        domains=verdicts,
    )


def _leading(summary: Summary) -> str:
    is_routed = summary.routing is not None and any(item.name == ROUTED for item in summary.systems)
    return ROUTED if is_routed else EXPERTS


def _verdicts(
    summary: Summary, views: Sequence[DomainView], system: str
) -> tuple[tuple[DomainVerdict, ...], list[Price]]:
    """A verdict for each domain, and the prices of those that were compared."""
    compared = [(view, _tested(view.metrics[0], system)) for view in views]
    drawn = iter(effects([(comparison, view.metrics[0]) for view, comparison in compared if comparison is not None]))
    verdicts = tuple(
        _domain_verdict(view, system, comparison, next(drawn), price_of(summary, system, view.name))
        if comparison is not None
        else _no_verdict(view)
        for view, comparison in compared
    )
    prices = [price for view, found in compared if found and (price := price_of(summary, system, view.name))]
    return verdicts, prices


def _also(summary: Summary, views: Sequence[DomainView], verdicts: Sequence[DomainVerdict]) -> str:
    """Whether the cascade, and a router without a mistake, fare otherwise than the routed experts."""
    same: list[str] = []
    other: list[str] = []
    won = [verdict.winner not in (None, BASELINE) for verdict in verdicts]
    lost = [verdict.winner == BASELINE for verdict in verdicts]
    for system, name in OTHER_WAYS.items():
        found, _ = _verdicts(summary, views, system)
        if not any(verdict.figures for verdict in found):
            continue
        if ([item.winner == system for item in found], [item.winner == BASELINE for item in found]) == (won, lost):
            same.append(name)
        else:
            lead = _lead(found, system)
            other.append(f"For {name}: {lead[0].lower()}{lead[1:]}")
    return " ".join([f"The same holds for {listed(same)}."] * bool(same) + other)


def _lead(verdicts: tuple[DomainVerdict, ...], system: str) -> str:
    tested = [verdict for verdict in verdicts if verdict.figures]
    if not tested:
        return f"This run does not compare the {spoken(system)} with the {BASELINE}."
    by = f"by {listed(list(dict.fromkeys(verdict.metric for verdict in tested)))}"
    winners = {verdict.winner for verdict in tested}
    if winners == {system}:
        return f"The {_beats(system)} the {BASELINE} {_in_all(len(tested))}, {by}."
    if winners == {BASELINE}:
        return f"The {BASELINE} beats the {spoken(system)} {_in_all(len(tested))}, {by}."
    if winners == {None}:
        return f"No difference between the {spoken(system)} and the {BASELINE} was shown {_in_any(len(tested))}, {by}."
    return _mixed(tested, system)


def _beats(system: str) -> str:
    return f"{spoken(system)} {'beat' if system in SUBJECTS else 'beats'}"


def _in_all(num_domains: int) -> str:
    if num_domains == 1:
        return "in the one domain tested"
    return "in both domains" if num_domains == 2 else f"in all {num_domains} domains"


def _in_any(num_domains: int) -> str:
    return "in the one domain tested" if num_domains == 1 else f"in any of the {num_domains} domains"


def _mixed(tested: Sequence[DomainVerdict], system: str) -> str:
    claims = {
        system: f"the {_beats(system)} the {BASELINE} in",
        BASELINE: f"the {BASELINE} beats the {spoken(system)} in",
        None: "no difference was shown in",
    }
    parts = []
    for winner, claim in claims.items():
        places = [f"{words(item.domain)} ({item.metric})" for item in tested if item.winner == winner]
        if places:
            parts.append(f"{claim} {listed(places)}")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _no_verdict(view: DomainView) -> DomainVerdict:
    return DomainVerdict(
        domain=view.name,
        expert=view.expert,
        metric=view.metrics[0].title,
        winner=None,
        sentence="There was nothing to compare.",
        others="",
        figures="",
        cost="",
        effect=None,
    )


def _domain_verdict(
    view: DomainView, system: str, comparison: PairedComparison, effect: Effect | None, price: Price | None
) -> DomainVerdict:
    metric, *others = view.metrics
    winner = _winner(comparison)
    return DomainVerdict(
        domain=view.name,
        expert=view.expert,
        metric=metric.title,
        winner=winner,
        sentence=_sentence(comparison, metric, winner),
        others=_others(others, system, winner),
        figures=_figures(comparison),
        cost=price_line(price, system) if price else "",
        effect=effect,
    )


def _tested(metric: MetricView, system: str) -> PairedComparison | None:
    found = _comparison(metric, system)
    return found if found is not None and found.verdict != "not_tested" else None


def _comparison(metric: MetricView, system: str) -> PairedComparison | None:
    return next((item for item in metric.comparisons if item.system_a == system), None)


def _winner(comparison: PairedComparison) -> str | None:
    return {"a_better": comparison.system_a, "b_better": comparison.system_b}.get(comparison.verdict)


def _sentence(comparison: PairedComparison, metric: MetricView, winner: str | None) -> str:
    a, b = spoken(comparison.system_a), spoken(comparison.system_b)
    values = f"{metric.title} {number(comparison.value_a)} against {number(comparison.value_b)}"
    if winner is None:
        return f"No difference shown between the {a} and the {b}: {values}."
    loser = b if winner == comparison.system_a else a
    if winner == comparison.system_b:
        values = f"{metric.title} {number(comparison.value_b)} against {number(comparison.value_a)}"
    return f"The {_beats(winner)} the {loser}: {values}."


def _others(metrics: Sequence[MetricView], system: str, winner: str | None) -> str:
    """What the other metrics show that the first does not."""
    better: dict[str, list[str]] = {}
    for metric in metrics:
        comparison = _comparison(metric, system)
        other = _winner(comparison) if comparison is not None else None
        if other is not None and other != winner:
            better.setdefault(other, []).append(metric.title)
    if not better:
        return ""
    claims = (
        f"the {spoken(name)} {'are' if name in SUBJECTS else 'is'} better by {listed(by)}"
        for name, by in better.items()
    )
    return f"Yet {', and '.join(claims)}."


def _figures(comparison: PairedComparison) -> str:
    counts = f"n = {plural(comparison.n_pairs, 'pair')}".replace(" ", NO_BREAK)
    pairs = f"{p_phrase(comparison.p_adjusted)}, {counts}"
    bounds = f"95{NO_BREAK}% interval {interval(comparison.low, comparison.high)}"
    if comparison.low is None:
        bounds = "no example differs" if comparison.difference == 0 else "no interval"
    return f"{bounds}, {pairs}"
