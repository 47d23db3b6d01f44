"""The run's conclusion in plain words: who wins where, by how much, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

from moe_ray.comparison.records import PairedComparison, Summary
from moe_ray.comparison.systems import BASELINE, EXPERTS
from moe_ray.report.effect import Effect, effects
from moe_ray.report.format import NO_BREAK, interval, listed, number, p_phrase, plural, words
from moe_ray.report.price import Price, price_line, price_of, price_sentence
from moe_ray.report.views import DomainView, MetricView, domain_views


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
    """The one sentence, what that costs (empty where it was not measured), and a verdict for each domain."""

    sentence: str
    cost: str
    domains: tuple[DomainVerdict, ...]


def headline(summary: Summary, system: str = EXPERTS) -> Headline:
    """Conclude from each domain's first metric, and name it."""
    views = domain_views(summary)
    compared = [(view, _tested(view.metrics[0], system)) for view in views]
    drawn = iter(effects([(comparison, view.metrics[0]) for view, comparison in compared if comparison is not None]))
    verdicts = tuple(
        _domain_verdict(view, system, comparison, next(drawn), price_of(summary, system, view.name))
        if comparison is not None
        else _no_verdict(view)
        for view, comparison in compared
    )
    prices = [price for view, found in compared if found and (price := price_of(summary, system, view.name))]
    return Headline(sentence=_lead(verdicts, system), cost=price_sentence(prices, system), domains=verdicts)


def _lead(verdicts: tuple[DomainVerdict, ...], system: str) -> str:
    tested = [verdict for verdict in verdicts if verdict.figures]
    if not tested:
        return f"This run does not compare the {system} with the {BASELINE}."
    by = f"by {listed(list(dict.fromkeys(verdict.metric for verdict in tested)))}"
    winners = {verdict.winner for verdict in tested}
    if winners == {system}:
        return f"The {system} beat the {BASELINE} {_in_all(len(tested))}, {by}."
    if winners == {BASELINE}:
        return f"The {BASELINE} beats the {system} {_in_all(len(tested))}, {by}."
    if winners == {None}:
        return f"No difference between the {system} and the {BASELINE} was shown {_in_any(len(tested))}, {by}."
    return _mixed(tested, system)


def _in_all(num_domains: int) -> str:
    if num_domains == 1:
        return "in the one domain tested"
    return "in both domains" if num_domains == 2 else f"in all {num_domains} domains"


def _in_any(num_domains: int) -> str:
    return "in the one domain tested" if num_domains == 1 else f"in any of the {num_domains} domains"


def _mixed(tested: Sequence[DomainVerdict], system: str) -> str:
    claims = {
        system: f"the {system} beat the {BASELINE} in",
        BASELINE: f"the {BASELINE} beats the {system} in",
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
    values = f"{metric.title} {number(comparison.value_a)} against {number(comparison.value_b)}"
    if winner is None:
        return f"No difference shown between the {comparison.system_a} and the {comparison.system_b}: {values}."
    loser = comparison.system_b if winner == comparison.system_a else comparison.system_a
    if winner == comparison.system_b:
        values = f"{metric.title} {number(comparison.value_b)} against {number(comparison.value_a)}"
    return f"The {winner} {'beat' if winner == EXPERTS else 'beats'} the {loser}: {values}."


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
    claims = (f"the {name} {'are' if name == EXPERTS else 'is'} better by {listed(by)}" for name, by in better.items())
    return f"Yet {', and '.join(claims)}."


def _figures(comparison: PairedComparison) -> str:
    counts = f"n = {plural(comparison.n_pairs, 'pair')}".replace(" ", NO_BREAK)
    pairs = f"{p_phrase(comparison.p_adjusted)}, {counts}"
    bounds = f"95{NO_BREAK}% interval {interval(comparison.low, comparison.high)}"
    if comparison.low is None:
        bounds = "no example differs" if comparison.difference == 0 else "no interval"
    return f"{bounds}, {pairs}"
