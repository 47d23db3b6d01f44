"""The report on the router: accuracy, cost of its mistakes, and its own test."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe_ray import formatting as text
from moe_ray.comparison.records import Summary
from moe_ray.comparison.routing_records import Regret, RoutingAccuracy, RoutingSummary, Sweep
from moe_ray.comparison.systems import ROUTED
from moe_ray.formatting import NONE, count, interval, listed, number, plural, signed, words
from moe_ray.report.measures import Group, Measures, plain, table
from moe_ray.routing.files import OutOfDomainResult, RouterTestResults


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
        plain("out-of-domain", [count(item.num_out_of_domain) for item in rows]),
        plain(
            "lost by mistakes",
            [_loss(lost_by_mistakes(item)) if item else NONE for item in found],
            [words(item.metric) if item else "" for item in found],
        ),
    )
    names = tuple("all" if item.domain is None else words(item.domain) for item in rows)
    caption = (
        "How often the most probable domain is the example's own; lost by mistakes: what the routed experts lose "
        "compared with perfect routing, negative where a mistake helped"
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


def out_of_domain_table(tested: RouterTestResults) -> Measures:
    """How well out-of-domain queries were told apart, by set and score."""
    rows = [*tested.out_of_domain, *tested.validation_out_of_domain]
    columns = (
        plain("score", [_score(item, tested.out_of_domain_score) for item in rows]),
        plain("AUROC", [number(item.auroc) for item in rows]),
        plain("FPR95", [number(item.fpr95) for item in rows]),
        plain("kept", [number(item.kept) for item in rows]),
        plain("n", [count(item.n) for item in rows]),
    )
    titles = ["tested against"] * len(tested.out_of_domain) + ["chosen by (validation)"] * len(
        tested.validation_out_of_domain
    )
    caption = (
        "Out-of-domain queries against the domains' own; FPR95: share of them kept where 95 % of the own are; "
        "kept: by the router's threshold"
    )
    names = tuple(words(item.set) for item in rows)
    return table("Out-of-domain queries", caption, "set", names, columns, groups=tuple(_groups(titles)))


def _score(item: OutOfDomainResult, chosen: str) -> str:
    return f"{words(item.score)}{' (chosen)' if item.score == chosen else ''}"


def _loss(value: float) -> str:
    return signed(value) if value else number(value)


LEAST_SHOWN = 0.0005  # what three decimals show as something


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingView:
    """The routing section, but for its plots. `sentence` is what the router did; the other texts may be empty."""

    sentence: str
    time: str
    accuracy: Measures
    regret: Measures | None
    trade: tuple[str, ...]
    test: str
    labels: Measures | None
    out_of_domain: Measures | None


def routing_view(summary: Summary) -> RoutingView | None:
    """What the report says of the router; None for a run without one."""
    routing = summary.routing
    if routing is None:
        return None
    tested = routing.test_results
    return RoutingView(
        sentence=routing_sentence(summary, routing),
        time=_time(routing),
        accuracy=accuracy_table(routing),
        regret=regret_table(summary, routing) if routing.regret else None,
        trade=tuple(_trade(routing)),
        test=_test(tested) if tested else "",
        labels=label_table(tested) if tested else None,
        out_of_domain=out_of_domain_table(tested)
        if tested and (tested.out_of_domain or tested.validation_out_of_domain)
        else None,
    )


def overall(routing: RoutingSummary) -> RoutingAccuracy | None:
    """The router on all examples; None where it was asked about none."""
    return next((item for item in routing.accuracy if item.domain is None and item.n), None)


def routing_sentence(summary: Summary, routing: RoutingSummary) -> str:
    """The router's accuracy, out-of-domain queries, and the cost of its mistakes, in plain words."""
    whole = overall(routing)
    if whole is None:
        return "The router saw no example."
    parts = [_right(whole, routing), _against_chance(whole, routing), _out_of_domain(whole, summary.run.baseline)]
    return " ".join(part for part in (*parts, _mistakes(whole, routing)) if part)


def _right(whole: RoutingAccuracy, routing: RoutingSummary) -> str:
    if len(routing.domains) == 1:
        return f"There is one domain, so the router had nothing to choose between ({plural(whole.n, 'example')})."
    bounds = f"accuracy {number(whole.accuracy)}, 95{text.NO_BREAK}% interval {interval(whole.low, whole.high)}"
    which = f"all {count(whole.n)}" if whole.num_right == whole.n else f"{count(whole.num_right)} of {count(whole.n)}"
    return f"The router named the right domain for {which} examples ({bounds})."


def _against_chance(whole: RoutingAccuracy, routing: RoutingSummary) -> str:
    """A word where a router that always names the largest domain is as good."""
    largest = max((item for item in routing.accuracy if item.domain is not None), key=lambda item: item.n)
    always = largest.n / whole.n
    if len(routing.domains) == 1 or whole.low > always:
        return ""
    verdict = "It is worse than" if whole.high < always else "It is not shown to be better than"
    alone = [item.n for item in routing.accuracy if item.domain is not None].count(largest.n) == 1
    name = words(largest.domain or "") if alone else "one and the same domain"
    return f"{verdict} always naming {name}, which would be right for {count(largest.n)} ({number(always)})."


def _out_of_domain(whole: RoutingAccuracy, baseline: str | None) -> str:
    if not whole.num_out_of_domain:
        return "It classified none of them as out-of-domain."
    who = "in the cascade the baseline answers those" if baseline else "there is no baseline to answer those"
    num = count(whole.num_out_of_domain)
    return f"It classified {num} of them as out-of-domain, although all belong to a domain; {who}."


def _mistakes(whole: RoutingAccuracy, routing: RoutingSummary) -> str:
    """What the mistakes change against the gold domains' experts, by domain."""
    found = [item for item in routing.regret if item.system == ROUTED and item.n]
    if not found:
        return ""
    if whole.num_right == whole.n and not any(lost_by_mistakes(item) for item in found):
        return "Each was answered by its own domain's expert, so the router cost no quality."
    lost = [f"{_amount(lost_by_mistakes(item))} of {_where(item)}" for item in found if lost_by_mistakes(item) > 0]
    gained = [f"{_amount(-lost_by_mistakes(item))} of {_where(item)}" for item in found if lost_by_mistakes(item) < 0]
    claims = [f"{verb} {listed(names)}" for verb, names in (("cost", lost), ("gained", gained)) if names]
    if not claims:
        return "Its mistakes changed no score, compared with perfect routing."
    elsewhere = ", nothing elsewhere" if len(lost) + len(gained) < len(found) else ""
    return f"Compared with perfect routing, its mistakes {', and '.join(claims)}{elsewhere}."


def _amount(loss: float) -> str:
    return "less than 0.001" if loss < LEAST_SHOWN else number(loss)


def _where(item: Regret) -> str:
    return f"{words(item.metric)} in {words(item.domain)}"


def _time(routing: RoutingSummary) -> str:
    facts = [str(routing.router[key]) for key in ("kind", "base_model", "path") if routing.router.get(key)]
    what = f" ({', '.join(facts)})" if facts else ""
    return f"Routing one query took {text.seconds(routing.route_s)} on average{what}."


def _trade(routing: RoutingSummary) -> Iterator[str]:
    """What the threshold trades, in sentences."""
    sweep = routing.sweep
    if sweep is None or not sweep.points:
        return
    first, last = sweep.points[0], sweep.points[-1]
    ends = f"{number(first.value)} with the router always, {number(last.value)} with the baseline always"
    yield f"Mean of the domains' headline metrics over {plural(sweep.n, 'example')}: {ends}."
    if sweep.strong is None:
        yield _no_gap(sweep)
        return
    strong = "router" if sweep.strong == ROUTED else "baseline"
    if sweep.apgr is not None:
        yield (
            f"Of that gap the thresholds keep {number(sweep.apgr, 2)} on average (APGR): the mean of the share that is "
            f"kept, over the share of queries that the {strong} answers; drawing those at random would keep 0.5."
        )
    wanted = [
        f"{number(share, 2)} of the queries for {percent} % of it (CPT {percent})"
        for percent, share in sorted(sweep.cpt.items())
        if share is not None
    ]
    if wanted:
        yield f"The {strong} must answer {listed(wanted)}."


def _no_gap(sweep: Sweep) -> str:
    if sweep.not_concluded:
        return f"The two ends cannot be compared: {sweep.not_concluded}."
    bounds = interval(sweep.gap_low, sweep.gap_high)
    return (
        f"These examples do not tell the two ends apart (gap {text.signed(sweep.gap)}, 95{text.NO_BREAK}% interval "
        f"{bounds}), so there is no gap that a threshold could keep, and no APGR and CPT."
    )


def _test(tested: RouterTestResults) -> str:
    bounds = interval(tested.accuracy_low, tested.accuracy_high)
    lines = (
        f"On {plural(tested.n, 'text')} that it had not seen before, after training on {count(tested.num_train)}: "
        f"accuracy {number(tested.accuracy)} {bounds}, macro-F1 {number(tested.macro_f1)}.",
        f"{_temperatures(tested)} moved its expected calibration error from "
        f"{number(tested.before_scaling.ece)} to {number(tested.after_scaling.ece)}.",
        f"Its threshold, on {words(tested.out_of_domain_score)}, keeps {number(tested.own_kept)} of the domains' own "
        "texts.",
    )
    return " ".join(lines)


def _temperatures(tested: RouterTestResults) -> str:
    uncertain = number(tested.temperature, 2)
    if tested.confident_temperature is None:
        return f"A temperature of {uncertain}"
    confident = number(tested.confident_temperature, 2)
    return f"Temperatures of {confident} where it is confident and {uncertain} where it is not"
