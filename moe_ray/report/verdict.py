"""The run's conclusion in plain words: which system wins where, by how much, and how certain that is."""

from collections.abc import Sequence
from typing import NamedTuple

from moe_ray.comparison.records import PairedComparison, Summary
from moe_ray.comparison.systems import BASELINE, CASCADE, EXPERTS, ROUTED
from moe_ray.formatting import NO_BREAK, interval, listed, number, p_phrase, percent, plural, words
from moe_ray.report.conclusions import DomainVerdict, Effect, Headline, effects, in_all, in_any, ranked_headline
from moe_ray.report.measures import DEFINITIONS, Price, price_line, price_of, price_sentence
from moe_ray.report.views import SUBJECTS, DomainView, MetricView, beats, capital, domain_views, the, winner_first

OTHER_WAYS = {
    CASCADE: f"the {CASCADE} (queries that the router classifies as out-of-domain go to the {BASELINE})",
    EXPERTS: "perfect routing (every query goes to its own domain's expert)",
}


class Contest(NamedTuple):
    """The two systems that a headline is about: `system` minus `other` are the differences that it tells."""

    system: str
    other: str


def headline(summary: Summary, system: str | None = None) -> Headline:
    """Conclude from each domain's first metric, and name it; by default about the experts, behind the router if any."""
    views = domain_views(summary)
    pairs = list(dict.fromkeys(Contest(item.system_a, item.system_b) for item in summary.comparisons))
    contest = _leading(pairs, system)
    if contest is None:
        return ranked_headline(summary, views)
    verdicts, prices = _verdicts(summary, views, contest)
    return Headline(
        sentence=lead(verdicts, contest),
        also=_also(summary, views, verdicts) if contest.system == ROUTED else "",
        cost=price_sentence(prices, contest.system),
        domains=verdicts,
    )


def terms(summary: Summary) -> str:
    """Explain systems and costs of the headline to a first-time reader; empty without experts."""
    baseline, experts = summary.run.baseline, list(dict.fromkeys(summary.run.experts.values()))
    if not experts:
        return ""
    parts = [f"Experts: {listed(experts)}, each for its own domain."]
    if baseline is not None:
        parts.insert(0, f"Baseline: {baseline}, one general model that answers every query.")
    if summary.routing is not None:
        parts.append("Routed: a router reads each query and chooses the expert that answers.")
    return " ".join([*parts, DEFINITIONS] if summary.costs else parts)


def _leading(pairs: Sequence[Contest], system: str | None) -> Contest | None:
    """The pair that the headline is about; None where several models are compared with each other."""
    if system is None and len({pair.other for pair in pairs}) > 1:
        return None
    wanted = [system] if system else [ROUTED, EXPERTS, *(pair.system for pair in pairs)]
    found = [pair for name in wanted for pair in pairs if pair.system == name]
    is_one = system is not None or len(pairs) < 2 or found[0].system in (ROUTED, EXPERTS, CASCADE)
    return (found or [Contest(system or EXPERTS, BASELINE)])[0] if is_one else None


def _verdicts(
    summary: Summary, views: Sequence[DomainView], contest: Contest
) -> tuple[tuple[DomainVerdict, ...], list[Price]]:
    """A verdict for each domain, and the prices of those that were compared."""
    compared = [(view, _comparison(view.metrics[0], contest)) for view in views]
    verdicts = pair_verdicts(summary, compared, contest)
    tested = [view for view, verdict in zip(views, verdicts, strict=True) if verdict.figures]
    return verdicts, [price for view in tested if (price := price_of(summary, contest.system, view.name))]


def pair_verdicts(
    summary: Summary | None, compared: Sequence[tuple[DomainView, PairedComparison | None]], contest: Contest
) -> tuple[DomainVerdict, ...]:
    """A verdict for each domain, with its price where there is a summary.

    Sentence, difference and interval have one direction: winner minus loser, or without a winner as in `contest`.
    """
    compared = [(view, item and winner_first(item)) for view, item in compared]
    tested = [(item, view.metrics[0]) for view, item in compared if item is not None and _is_tested(item)]
    drawn = iter(effects(tested))
    return tuple(
        _no_verdict(view, item)
        if item is None or not _is_tested(item)
        else _domain_verdict(view, contest, item, next(drawn), summary)
        for view, item in compared
    )


def _is_tested(item: PairedComparison) -> bool:
    return item.verdict not in ("not_tested", "not_concluded")


def _also(summary: Summary, views: Sequence[DomainView], verdicts: Sequence[DomainVerdict]) -> str:
    """Whether the cascade, and a router without a mistake, fare otherwise than the routed experts."""
    same: list[str] = []
    other: list[str] = []
    won = [verdict.winner not in (None, BASELINE) for verdict in verdicts]
    lost = [verdict.winner == BASELINE for verdict in verdicts]
    for system, name in OTHER_WAYS.items():
        contest = Contest(system, BASELINE)
        found, _ = _verdicts(summary, views, contest)
        if not any(verdict.figures or verdict.open_reason for verdict in found):
            continue
        if ([item.winner == system for item in found], [item.winner == BASELINE for item in found]) == (won, lost):
            same.append(name)
        else:
            text = lead(found, contest)
            other.append(f"For {name}: {text[0].lower()}{text[1:]}")
    return " ".join([f"The same holds for {listed(same)}."] * bool(same) + other)


def lead(verdicts: Sequence[DomainVerdict], contest: Contest) -> str:
    """The verdicts of all domains in one sentence, and another one for domains of which nothing was concluded."""
    tested = [verdict for verdict in verdicts if verdict.figures]
    still_open = [verdict for verdict in verdicts if verdict.open_reason]
    both = f"{the(contest.system)} and {the(contest.other)}"
    if tested:
        places = listed([f"{words(item.domain)} ({item.metric})" for item in still_open])
        return " ".join([_lead(tested, contest), *([f"Not concluded in {places}."] if places else [])])
    if still_open:
        reasons = "; ".join(dict.fromkeys(item.open_reason for item in still_open))
        return f"Nothing can be concluded about {both}: {reasons}."
    return f"This run does not compare {the(contest.system)} with {the(contest.other)}."


def _lead(tested: Sequence[DomainVerdict], contest: Contest) -> str:
    by = f"by {listed(list(dict.fromkeys(verdict.metric for verdict in tested)))}"
    winners = {verdict.winner for verdict in tested}
    if winners == {None}:
        both = f"{the(contest.system)} and {the(contest.other)}"
        return f"No difference between {both} was shown {in_any(len(tested))}, {by}."
    if len(winners) == 1:
        first, second = contest if winners == {contest.system} else (contest.other, contest.system)
        return capital(f"{beats(first)} {the(second)} {in_all(len(tested))}, {by}.", first)
    return _mixed(tested, contest)


def _mixed(tested: Sequence[DomainVerdict], contest: Contest) -> str:
    claims = {
        contest.system: f"{beats(contest.system)} {the(contest.other)} in",
        contest.other: f"{beats(contest.other)} {the(contest.system)} in",
        None: "no difference was shown in",
    }
    parts = {}
    for winner, claim in claims.items():
        places = [f"{words(item.domain)} ({item.metric})" for item in tested if item.winner == winner]
        if places:
            parts[winner] = f"{claim} {listed(places)}"
    return capital(f"{'; '.join(parts.values())}.", next(iter(parts)))


def _no_verdict(view: DomainView, item: PairedComparison | None) -> DomainVerdict:
    reason = (item.not_concluded or "") if item is not None else ""
    return DomainVerdict(
        domain=view.name,
        expert=view.expert,
        metric=view.metrics[0].title,
        winner=None,
        sentence=f"Not concluded: {reason}." if reason else "There was nothing to compare.",
        open_reason=reason,
        failures=_failures(item, view.metrics[0]) if item is not None else "",
    )


def _domain_verdict(
    view: DomainView, contest: Contest, item: PairedComparison, effect: Effect | None, summary: Summary | None
) -> DomainVerdict:
    metric, *others = view.metrics
    winner = item.system_a if item.verdict == "a_better" else None
    price = price_of(summary, contest.system, view.name) if summary is not None else None
    return DomainVerdict(
        domain=view.name,
        expert=view.expert,
        metric=metric.title,
        winner=winner,
        sentence=_sentence(item, metric, winner),
        is_lost=winner == contest.other,
        failures=_failures(item, metric),
        others=_others(others, contest, winner),
        figures=figures(item),
        cost=price_line(price, contest.system) if price else "",
        effect=effect,
    )


def _comparison(metric: MetricView, contest: Contest) -> PairedComparison | None:
    pairs = (item for item in metric.comparisons if (item.system_a, item.system_b) == contest)
    return next(pairs, None)


def _winner(comparison: PairedComparison) -> str | None:
    return {"a_better": comparison.system_a, "b_better": comparison.system_b}.get(comparison.verdict)


def _sentence(item: PairedComparison, metric: MetricView, winner: str | None) -> str:
    values = f"{metric.title} {number(item.value_a)} against {number(item.value_b)}"
    if winner is None:
        return f"No difference shown between {the(item.system_a)} and {the(item.system_b)}: {values}."
    return capital(f"{beats(winner)} {the(item.system_b)}: {values}.", winner)


def _failures(item: PairedComparison, metric: MetricView) -> str:
    """How often each system failed, and the values over the examples that both answered."""
    if item.answered is None:
        return ""
    num, found = item.n_pairs + item.n_dropped, item.answered
    counts = [
        f"{the(system)} on {plural(failed, 'example')} of {num} ({percent(failed / num)})"
        for system, failed in ((item.system_a, item.n_failed_a), (item.system_b, item.n_failed_b))
        if failed
    ]
    counted = (
        f", each counted as {number(metric.worst, 0)}" if metric.worst is not None else ", which cannot be counted"
    )
    beside = f"{metric.title} {number(found.value_a)} against {number(found.value_b)}, n = {found.n_pairs}"
    return f"Failed: {listed(counts)}{counted}. Where both answered: {beside}."


def _others(metrics: Sequence[MetricView], contest: Contest, winner: str | None) -> str:
    """What the other metrics show that the first does not."""
    better: dict[str, list[str]] = {}
    for metric in metrics:
        comparison = _comparison(metric, contest)
        other = _winner(comparison) if comparison is not None else None
        if other is not None and other != winner:
            better.setdefault(other, []).append(metric.title)
    if not better:
        return ""
    claims = (
        f"{the(name)} {'are' if name in SUBJECTS else 'is'} better by {listed(by)}" for name, by in better.items()
    )
    return f"Yet {', and '.join(claims)}."


def figures(comparison: PairedComparison) -> str:
    """The interval of a difference, its p-value and its number of pairs."""
    counts = f"n = {plural(comparison.n_pairs, 'pair')}".replace(" ", NO_BREAK)
    pairs = f"{p_phrase(comparison.p_adjusted)}, {counts}"
    bounds = f"95{NO_BREAK}% interval {interval(comparison.low, comparison.high)}"
    if comparison.low is None:
        bounds = "no example differs" if comparison.difference == 0 else "no interval"
    return f"{bounds}, {pairs}"
