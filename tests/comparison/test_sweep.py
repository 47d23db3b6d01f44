"""The sweep over all thresholds, against a plain loop and against what is known of perfect and of random scores."""

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import bootstrap

from moe_ray.comparison.routing_records import Sweep
from moe_ray.comparison.summary import summarise
from moe_ray.scoring.score import Metric
from moe_ray.store.routes import Routes
from tests.comparison.routed_run import (
    BASE,
    LOSS,
    SCORE,
    RoutedRun,
    Values,
    labelled_run,
    mean,
    random_routes,
    random_values,
)

DOMAINS = ["bio", "code", "law"]
ROUTER_S = 0.25
EXPERT = "expert-d"


def sweep_of(run: RoutedRun, routes: Routes) -> Sweep:
    routing = run.summary(routes).routing
    assert routing is not None
    assert routing.sweep is not None
    return routing.sweep


def weaken(values: dict[tuple[str, str], list[float | None]], weak: str) -> None:
    """Let one model score lower everywhere, so that the ends of a sweep differ."""
    for (domain, model), drawn in values.items():
        if model == weak:
            values[domain, model] = [None if value is None else value / 4 for value in drawn]


class Sent(NamedTuple):
    """One example of the sweep."""

    domain: str
    score: float
    routed: float
    baseline: float
    expert: str


def plain_examples(run: RoutedRun, routes: Routes) -> list[Sent]:
    counted: dict[str, int] = {}
    found = []
    for domain, chosen, score in zip(routes.example_domains, routes.chosen, routes.scores.tolist(), strict=True):
        at = counted[domain] = counted.get(domain, -1) + 1
        expert = f"expert-{routes.domains[chosen]}"
        routed, baseline = run.values[domain, expert][at], run.values[domain, BASE][at]
        if routed is not None and baseline is not None:
            found.append(Sent(domain, score, routed, baseline, expert))
    return found


def plain_point(run: RoutedRun, examples: list[Sent], threshold: float) -> tuple[float, float, float, float]:
    """Share below the threshold, value, seconds and byte-seconds of the cascade at it."""
    models = [BASE if item.score < threshold else item.expert for item in examples]
    values = [item.baseline if item.score < threshold else item.routed for item in examples]
    of_domains = [
        mean([value for value, item in zip(values, examples, strict=True) if item.domain == domain])
        for domain in sorted({item.domain for item in examples})
    ]
    seconds = [run.busy_s.get(model, 1.0) + ROUTER_S for model in models]
    bytes_s = [spent * (run.memory_bytes[model] or 0) for spent, model in zip(seconds, models, strict=True)]
    return models.count(BASE) / len(models), mean(of_domains), mean(seconds), mean(bytes_s)


def plain_area(curve: list[tuple[float, float]]) -> float:
    """Of (strong share, PGR) in rising order: trapezoid by trapezoid."""
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(curve))


@pytest.mark.parametrize("metric", [SCORE, LOSS], ids=["higher", "lower"])
@pytest.mark.parametrize("num_levels", [7, None], ids=["ties", "no ties"])
def test_every_point_and_figure_is_that_of_a_plain_loop(metric: Metric, num_levels: int | None) -> None:
    rng = np.random.default_rng(3)
    values = random_values(rng, DOMAINS, 60)
    weaken(values, BASE)
    for domain in DOMAINS:
        values[domain, BASE][7] = values[domain, f"expert-{domain}"][8] = None
    models = sorted({model for _, model in values})
    run = RoutedRun(
        values=values,
        metric=metric,
        busy_s={model: 1.0 + at for at, model in enumerate(models)},
        memory_bytes={model: 1000 + at for at, model in enumerate(models)},
    )
    routes = random_routes(run, rng, num_levels=num_levels)
    found, examples = sweep_of(run, routes), plain_examples(run, routes)
    assert (found.n, found.n_dropped) == (len(examples), 180 - len(examples))
    assert found.metrics == dict.fromkeys(DOMAINS, "accuracy")
    distinct = sorted({item.score for item in examples})
    assert [point.threshold for point in found.points[:-1]] == distinct
    plain = [plain_point(run, examples, threshold) for threshold in [*distinct, math.inf]]
    first, last = plain[0][1], plain[-1][1]
    is_routed = (first > last) == metric.higher_is_better
    assert found.strong == ("routed" if is_routed else "baseline")
    weak, strong = (last, first) if is_routed else (first, last)
    for point, (share, value, seconds, bytes_s) in zip(found.points, plain, strict=True):
        assert point.baseline_share == share
        assert point.strong_share == (1 - share if is_routed else share)
        assert point.value == pytest.approx(value, rel=1e-12)
        assert point.recovered == pytest.approx((value - weak) / (strong - weak), abs=1e-12)
        assert point.busy_s == pytest.approx(seconds, rel=1e-12)
        assert point.memory_byte_s == pytest.approx(bytes_s, rel=1e-12)
    curve = sorted((1 - share if is_routed else share, (value - weak) / (strong - weak)) for share, value, *_ in plain)
    assert found.apgr == pytest.approx(plain_area(curve), abs=1e-12)
    for level, reached in found.cpt.items():
        assert reached == next(share for share, pgr in curve if pgr >= level / 100 - 1e-9)


def test_a_metric_of_labels_is_computed_anew_at_every_threshold() -> None:
    rng = np.random.default_rng(8)
    golds = {domain: rng.choice(["yes", "no", "maybe"], 40).tolist() for domain in "ab"}
    models = (BASE, "expert-a", "expert-b")
    run = labelled_run(golds, {(d, m): rng.choice(["yes", "no", "?"], 40).tolist() for d in golds for m in models})
    routes = random_routes(run, np.random.default_rng(9))
    at_ends = run.summary(routes)
    found = sweep_of(run, routes)
    assert len(found.points) == 81
    for point in found.points[::8]:
        cascade = run.summary(random_routes(run, np.random.default_rng(9), threshold=point.threshold))
        values = [value.value for value in cascade.values if value.system == "cascade"]
        assert point.value == pytest.approx(mean(values), abs=1e-12)
    for end, system in ((found.points[0], "routed"), (found.points[-1], "baseline")):
        assert end.value == mean([value.value for value in at_ends.values if value.system == system])


def test_the_ends_of_the_curve_are_the_systems_values_to_the_last_bit() -> None:
    rng = np.random.default_rng(4)
    large = 1e17  # beside which a running sum would lose what the baseline scores
    run = RoutedRun(values={("d", BASE): rng.random(40).tolist(), ("d", EXPERT): (rng.random(40) * large).tolist()})
    routes = by_score(run, rng.random(40).tolist())
    summary, points = run.summary(routes), sweep_of(run, routes).points
    found = [summary.value(system, "d", "accuracy") for system in ("routed", "baseline")]
    assert [points[0].value, points[-1].value] == [value and value.value for value in found]
    assert [points[0].recovered, points[-1].recovered] in ([1.0, 0.0], [0.0, 1.0])


def gains_run(gains: list[int], *, metric: Metric = SCORE) -> RoutedRun:
    """One domain in which the expert gains so much over the baseline on each example."""
    values: dict[tuple[str, str], Values] = {
        ("d", BASE): [0.5] * len(gains),
        ("d", EXPERT): [0.5 + gain / 2 for gain in gains],
    }
    return RoutedRun(values=values, metric=metric)


def by_score(run: RoutedRun, scores: list[float]) -> Routes:
    return run.routes({"d": ["d"] * len(scores)}, {"d": scores})


def test_a_score_that_orders_the_examples_by_their_gain_has_the_area_that_theory_says() -> None:
    """A share a gains, b loses: PGR rises to a/(a-b) at a, stays there until 1-b, and falls to 1."""
    gains = [1] * 50 + [0] * 40 + [-1] * 10
    found = sweep_of(gains_run(gains), by_score(gains_run(gains), [1.0 - at / 100 for at in range(100)]))
    a, b = 0.5, 0.1
    top = a / (a - b)
    assert found.strong == "routed"
    assert found.apgr == pytest.approx(top * a / 2 + top * (1 - a - b) + b * (top + 1) / 2, abs=1e-12)
    assert found.cpt == pytest.approx({50: 0.5 * (a - b), 80: 0.8 * (a - b)})


@pytest.mark.parametrize("metric", [SCORE, LOSS], ids=["higher", "lower"])
def test_a_random_score_recovers_half_the_gap_on_average(metric: Metric) -> None:
    run = gains_run(np.random.default_rng(0).choice([-1, 0, 1], 200, p=[0.1, 0.5, 0.4]).tolist(), metric=metric)
    areas = [sweep_of(run, by_score(run, np.random.default_rng(seed).random(200).tolist())).apgr for seed in range(12)]
    known = np.array(areas, dtype=np.float64)
    assert abs(known.mean() - 0.5) < 4 * known.std(ddof=1) / math.sqrt(len(known))


def test_a_score_that_is_the_same_for_all_recovers_exactly_half_the_gap() -> None:
    run = gains_run([1, 1, 0, -1, 1] * 6)
    found = sweep_of(run, by_score(run, [0.5] * 30))
    assert (found.apgr, found.cpt, len(found.points)) == (0.5, {50: 1.0, 80: 1.0}, 2)


def test_a_score_turned_round_recovers_what_the_other_leaves() -> None:
    rng = np.random.default_rng(2)
    run = gains_run([1, 1, 0, -1, 1, 0, 1] * 5)
    scores = (np.floor(rng.random(35) * 9) / 9).tolist()
    areas = [sweep_of(run, by_score(run, [sign * score for score in scores])).apgr for sign in (1, -1)]
    assert None not in areas
    assert math.fsum(area for area in areas if area is not None) == pytest.approx(1.0, abs=1e-12)


def test_ends_that_cannot_be_told_apart_have_no_strong_end_and_no_figures_of_the_gap() -> None:
    """At 501 against 500 of 1000 right, PGR between the ends reaches hundreds of times the gap."""
    gains = [1] * 101 + [-1] * 100 + [0] * 799
    run = gains_run(gains)
    found = sweep_of(run, by_score(run, [1.0 - at / 1000 for at in range(1000)]))
    assert found.gap == pytest.approx(0.0005)
    assert found.gap_low is not None
    assert found.gap_high is not None
    assert found.gap_low < 0 < found.gap_high
    assert (found.strong, found.apgr, found.cpt) == (None, None, {50: None, 80: None})
    assert {point.recovered for point in found.points} == {None}


def test_the_gaps_interval_is_a_bootstrap_of_the_paired_differences() -> None:
    rng = np.random.default_rng(5)
    gains = rng.choice([-1, 0, 1], 400, p=[0.2, 0.4, 0.4])
    found = sweep_of(gains_run(gains.tolist()), by_score(gains_run(gains.tolist()), rng.random(400).tolist()))
    plain = bootstrap((gains / 2,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert found.gap_low == pytest.approx(plain.low, abs=0.01)
    assert found.gap_high == pytest.approx(plain.high, abs=0.01)


def test_a_gap_that_no_example_contradicts_is_told_apart_from_six_examples_on() -> None:
    for num, strong in ((5, None), (6, "routed")):
        run = gains_run([1] * num)
        assert sweep_of(run, by_score(run, [at / 10 for at in range(num)])).strong == strong


def test_ends_that_are_equally_good_have_no_gap_to_recover() -> None:
    run = gains_run([1, -1])
    found = sweep_of(run, by_score(run, [0.1, 0.9]))
    assert (found.strong, found.apgr, found.cpt) == (None, None, {50: None, 80: None})
    assert [point.recovered for point in found.points] == [None] * 3
    assert [point.strong_share for point in found.points] == [1.0, 0.5, 0.0]


def test_where_the_baseline_is_better_it_is_the_strong_end() -> None:
    run = gains_run([-1] * 20 + [0] * 20)
    found = sweep_of(run, by_score(run, [score for score in (0.1, 0.2, 0.3, 0.4) for _ in range(10)]))
    assert found.strong == "baseline"
    assert [(point.strong_share, point.recovered) for point in found.points] == [
        (0.0, 0.0),
        (0.25, 0.5),
        (0.5, 1.0),
        (0.75, 1.0),
        (1.0, 1.0),
    ]
    assert found.cpt == {50: 0.25, 80: 0.5}


def test_many_thresholds_are_thinned_evenly_with_both_ends_and_the_runs_own() -> None:
    num = 3000
    rng = np.random.default_rng(1)
    run = gains_run(rng.choice([0, 1], num).tolist())
    scores = rng.random(num).tolist()
    threshold = sorted(scores)[777]
    routes = run.routes({"d": ["d"] * num}, {"d": scores}, threshold=threshold)
    found = sweep_of(run, routes)
    shares = [point.baseline_share for point in found.points]
    assert len(shares) <= 202
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert max(np.diff(shares)) < 1.5 / 199
    (own,) = [point for point in found.points if point.threshold == threshold]
    cascade = run.summary(routes).value("cascade", "d", "accuracy")
    assert cascade is not None
    assert own.value == pytest.approx(cascade.value, abs=1e-12)
    shown = [(point.strong_share, point.recovered) for point in found.points if point.recovered is not None]
    assert found.apgr == pytest.approx(plain_area(sorted(shown)), abs=1e-3)


def test_domains_of_which_one_wants_high_values_and_one_low_have_no_sweep() -> None:
    run = RoutedRun(values=random_values(np.random.default_rng(0), ["a", "b"], 5))
    scores = [score if score.domain == "a" else replace(score, metric="loss") for score in run.scores()]
    metrics = {"accuracy": SCORE, "loss": Metric(name="loss", definition="l", higher_is_better=False)}
    routes = run.all_to({"a": "a", "b": "b"})
    summary = summarise(scores, metrics, run.manifest(), [], run.answers(), routes=routes)
    assert summary.routing is not None
    assert summary.routing.sweep is None
    assert {item.metric for item in summary.routing.regret} == {"accuracy", "loss"}


def test_costs_that_were_not_measured_or_in_another_way_are_unknown() -> None:
    run = gains_run([1, 0, 1])
    routes = by_score(run, [0.1, 0.2, 0.3])
    assert {point.memory_byte_s for point in sweep_of(run, routes).points} == {None}
    assert None not in {point.busy_s for point in sweep_of(run, routes).points}
