"""The conclusion of a run that compares several models with each other: which one is shown to beat which."""

from collections import defaultdict
from collections.abc import Sequence

from moe_ray.comparison.records import PairedComparison, Summary
from moe_ray.report.conclusion import DomainVerdict, Headline, in_all, in_any
from moe_ray.report.format import listed, number, words
from moe_ray.report.views import DomainView, beats, spoken, the


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
        return "Nothing can be concluded about the models of this run; the reasons stand with each domain."
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
