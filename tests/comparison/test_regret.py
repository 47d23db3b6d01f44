"""The regret and its parts, against a loop over the examples that knows nothing of columns."""

import math

import numpy as np
import pytest

from moe_ray.comparison.routing_records import Regret
from moe_ray.scoring.score import Metric
from moe_ray.store.routes import Routes
from tests.comparison.routed_run import BASE, LOSS, SCORE, RoutedRun, Values, labelled_run, random_routes, random_values

DOMAINS = ["bio", "code", "law"]


def regrets_of(run: RoutedRun, routes: Routes) -> list[Regret]:
    routing = run.summary(routes).routing
    assert routing is not None
    return routing.regret


def plain_regret(run: RoutedRun, routes: Routes, system: str, domain: str) -> dict[str, float]:
    """Parts and ends of the regret of `routed`, `cascade`, `experts` or `baseline`, example by example."""
    direction = 1 if run.metric.higher_is_better else -1
    parts: dict[str, list[float]] = {"wrong_domain": [], "sent_to_baseline": [], "right_expert_worse": []}
    ends: dict[str, list[float]] = {"oracle": [], "value": []}
    places = zip(routes.example_domains, routes.chosen, routes.is_out_of_domain, strict=True)
    rows = [(routes.domains[chosen], bool(out_of_domain)) for name, chosen, out_of_domain in places if name == domain]
    for at, (chosen, out_of_domain) in enumerate(rows):
        sent = {"cascade": out_of_domain, "baseline": True}.get(system, False)
        answering = BASE if sent else f"expert-{domain if system == 'experts' else chosen}"
        there = [v for m in run.models if (v := run.values[domain, m][at]) is not None]
        value, right = run.values[domain, answering][at], run.values[domain, f"expert-{domain}"][at]
        if value is None or right is None:
            continue
        best = max(there) if direction == 1 else min(there)
        parts["sent_to_baseline"].append(direction * (right - value) if sent else 0.0)
        parts["wrong_domain"].append(0.0 if sent else direction * (right - value))
        parts["right_expert_worse"].append(direction * (best - right))
        ends["oracle"].append(best)
        ends["value"].append(value)
    return {name: math.fsum(values) / len(values) for name, values in (parts | ends).items()} | {
        "n": len(ends["value"]),
        "n_dropped": len(rows) - len(ends["value"]),
    }


@pytest.mark.parametrize("metric", [SCORE, LOSS], ids=["higher", "lower"])
@pytest.mark.parametrize("seed", range(4))
def test_the_parts_are_those_of_a_plain_loop_and_add_up_exactly(seed: int, metric: Metric) -> None:
    rng = np.random.default_rng(seed)
    run = RoutedRun(values=random_values(rng, DOMAINS, 40, num_unscored=2, levels=8), metric=metric)
    routes = random_routes(run, rng)
    found = regrets_of(run, routes)
    systems = ["baseline", "experts", "routed", "cascade", "random", "best_single"]
    assert [(item.domain, item.system) for item in found] == [(d, s) for d in DOMAINS for s in systems]
    direction = 1 if metric.higher_is_better else -1
    for item in found:
        assert item.regret == item.wrong_domain + item.sent_to_baseline + item.right_expert_worse
        assert item.regret == pytest.approx(direction * (item.oracle - item.value), abs=1e-12)
        assert item.regret >= -1e-12
        assert item.right_expert_worse >= 0
        if item.system in systems[:4]:
            plain = plain_regret(run, routes, item.system, item.domain)
            assert {name: getattr(item, name) for name in plain} == pytest.approx(plain, abs=1e-14)


def test_the_parts_of_one_model_that_is_the_baseline_are_the_baselines() -> None:
    values: dict[tuple[str, str], Values] = {
        (domain, model): [1.0 if model == BASE else 0.25] for domain in "ab" for model in (BASE, "expert-a", "expert-b")
    }
    run = RoutedRun(values=values)
    by_system = {item.system: item for item in regrets_of(run, run.all_to({"a": "a", "b": "b"})) if item.domain == "a"}
    best = by_system["best_single"]
    assert (best.wrong_domain, best.sent_to_baseline, best.right_expert_worse, best.regret) == (0.0, -0.75, 0.75, 0.0)
    assert best.model_dump(exclude={"system"}) == by_system["baseline"].model_dump(exclude={"system"})


def test_a_threshold_that_turns_the_baselines_own_queries_to_it_changes_nothing() -> None:
    """Domain b has no expert: what is taken for it goes to the baseline with and without a threshold."""
    values = {(domain, model): [float(model == BASE)] for domain in "ab" for model in (BASE, "expert-a")}
    run = RoutedRun(values=values, experts={"a": "expert-a"})
    found = {
        (item.system, item.domain): item
        for item in regrets_of(run, run.routes({"a": ["b"], "b": ["b"]}, {"a": [0.1], "b": [0.1]}, threshold=0.5))
    }
    assert (found["cascade", "a"].wrong_domain, found["cascade", "a"].sent_to_baseline) == (-1.0, 0.0)
    assert found["cascade", "b"].regret == 0.0
    assert ("experts", "b") not in found


def test_a_weighted_mean_is_split_with_its_weights() -> None:
    scored = {BASE: [0.0, 0.0], "expert-a": [1.0, 0.0], "expert-b": [0.0, 1.0]}
    values = {(domain, model): of_model for domain in "ab" for model, of_model in scored.items()}
    run = RoutedRun(values=values, weights=[3.0, 1.0])
    found = next(item for item in regrets_of(run, run.all_to({"a": "b", "b": "b"})) if item.system == "routed")
    assert (found.oracle, found.value, found.wrong_domain, found.right_expert_worse) == (1.0, 0.25, 0.5, 0.25)


def test_a_metric_that_counts_labels_is_split_by_which_examples_are_right() -> None:
    gold = {domain: ["yes", "no", "no", "no"] for domain in "ab"}
    says = {BASE: ["no"] * 4, "expert-a": ["yes", "no", "yes", "yes"], "expert-b": ["yes"] * 4}
    run = labelled_run(gold, {(domain, model): said for domain in gold for model, said in says.items()})
    found = next(item for item in regrets_of(run, run.all_to({"a": "b", "b": "b"})) if item.system == "routed")
    assert (found.oracle, found.value, found.wrong_domain, found.right_expert_worse) == (1.0, 0.25, 0.25, 0.5)


def test_a_domain_that_nobody_could_be_scored_on_has_no_regret() -> None:
    scored: dict[str, Values] = {"a": [None], "b": [1.0]}
    run = RoutedRun(values={(d, model): scored[d] for d in "ab" for model in (BASE, "expert-a", "expert-b")})
    assert {item.domain for item in regrets_of(run, run.all_to({"a": "a", "b": "b"}))} == {"b"}
