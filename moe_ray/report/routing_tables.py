"""The tables of the routing section."""

from collections.abc import Iterator, Sequence

from moe_ray.comparison.records import Regret, RoutingSummary, Summary
from moe_ray.comparison.systems import ROUTED
from moe_ray.report import format as text
from moe_ray.report.format import NONE, count, interval, number, signed, words
from moe_ray.report.measures import Group, Measures, plain, table
from moe_ray.routing.results import ForeignResult, RouterTestResults


def lost_by_mistakes(item: Regret) -> float:
    """What a system loses on a domain to the domain's own expert."""
    return item.wrong_domain + item.sent_to_baseline


def accuracy_table(routing: RoutingSummary) -> Measures:
    """How often the router was right, by domain and over all."""
    rows = [item for item in routing.accuracy if item.n]
    lost = {item.domain: item for item in routing.regret if item.system == ROUTED and item.n}
    found = [lost.get(item.domain or "") for item in rows]
    columns = (
        plain("accuracy", [number(item.accuracy) for item in rows]),
        plain("95 % interval", [interval(item.low, item.high) for item in rows]),
        plain("right", [count(item.num_right) for item in rows]),
        plain("n", [count(item.n) for item in rows]),
        plain("called foreign", [count(item.num_foreign) for item in rows]),
        plain(
            "lost by mistakes",
            [_loss(lost_by_mistakes(item)) if item else NONE for item in found],
            [words(item.metric) if item else "" for item in found],
        ),
    )
    names = tuple("all" if item.domain is None else words(item.domain) for item in rows)
    caption = (
        "The most probable domain against the example's own; lost by mistakes: what the routed experts lose to the "
        "gold domains' experts, negative where a mistake helped"
    )
    return table("Routing accuracy", caption, "domain", names, columns)


def regret_table(summary: Summary, routing: RoutingSummary) -> Measures:
    """What each system loses to the oracle, by domain, in its parts."""
    rows = sorted(routing.regret, key=lambda item: list(summary.domain_metrics).index(item.domain))
    parts = {
        "its value": [number(item.value) for item in rows],
        "the oracle's": [number(item.oracle) for item in rows],
        "regret": [_loss(item.regret) for item in rows],
        "wrong domain": [_loss(item.wrong_domain) for item in rows],
        "sent to the baseline": [_loss(item.sent_to_baseline) for item in rows],
        "right expert worse": [_loss(item.right_expert_worse) for item in rows],
        "n": [count(item.n) for item in rows],
        "left out": [count(item.n_dropped) for item in rows],
    }
    caption = "Mean loss to the oracle for each example, and its parts, which add up; negative where a mistake helped"
    columns = tuple(plain(title, cells) for title, cells in parts.items())
    groups = tuple(_groups([f"{words(item.domain)}, {words(item.metric)}" for item in rows]))
    return table("Regret", caption, "system", tuple(words(item.system) for item in rows), columns, groups=groups)


def _groups(titles: Sequence[str]) -> Iterator[Group]:
    """A group for each run of equal titles."""
    starts = [at for at, title in enumerate(titles) if not at or title != titles[at - 1]]
    for start, end in zip(starts, [*starts[1:], len(titles)], strict=True):
        yield Group(title=titles[start], start=start, end=end)


def label_table(tested: RouterTestResults) -> Measures:
    """Precision, recall and F1 of each label on the router's own test texts."""
    rows = tested.per_label
    columns = (
        plain("precision", [number(item.precision) for item in rows]),
        plain("recall", [number(item.recall) for item in rows]),
        plain("F1", [number(item.f1) for item in rows]),
        plain("n", [count(item.n) for item in rows]),
    )
    timing = f"training took {text.seconds(tested.train_s)}, a text {text.seconds(tested.seconds_per_text)}"
    caption = f"The router's own test by label, before the threshold; {timing}"
    return table("The router's own test", caption, "label", tuple(words(item.label) for item in rows), columns)


def foreign_table(tested: RouterTestResults) -> Measures:
    """How well foreign queries were told apart, by set and score."""
    rows = [*tested.foreign, *tested.validation_foreign]
    columns = (
        plain("score", [_score(item, tested.foreign_score) for item in rows]),
        plain("AUROC", [number(item.auroc) for item in rows]),
        plain("FPR95", [number(item.fpr95) for item in rows]),
        plain("kept", [number(item.kept) for item in rows]),
        plain("n", [count(item.n) for item in rows]),
    )
    titles = ["tested against"] * len(tested.foreign) + ["chosen by (validation)"] * len(tested.validation_foreign)
    caption = (
        "Queries of no domain against the domains' own; FPR95: share of them kept where 95 % of the own are; "
        "kept: by the router's threshold"
    )
    names = tuple(words(item.set) for item in rows)
    return table("Foreign queries", caption, "set", names, columns, groups=tuple(_groups(titles)))


def _score(item: ForeignResult, chosen: str) -> str:
    return f"{words(item.score)}{' (chosen)' if item.score == chosen else ''}"


def _loss(value: float) -> str:
    return signed(value) if value else number(value)
