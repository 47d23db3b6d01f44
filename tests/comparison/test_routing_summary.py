"""What a summary says of the router: accuracy, confusion, calibration, and what was known of it before."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss

from moe_ray.comparison.records import Summary
from moe_ray.comparison.routing_records import RoutingSummary
from moe_ray.comparison.runs import compare_runs
from moe_ray.store.routes import Routes
from tests.comparison.routed_run import BASE, RoutedRun, Values, mean, random_routes, random_values

DOMAINS = ["bio", "code", "law"]
NUM = 60
ROUTER: dict[str, Any] = {"kind": "tfidf", "fingerprint": "f", "threshold": 0.4, "test_results": None}


@pytest.fixture(scope="module")
def run() -> RoutedRun:
    return RoutedRun(values=random_values(np.random.default_rng(0), DOMAINS, NUM))


@pytest.fixture(scope="module")
def routes(run: RoutedRun) -> Routes:
    """A router that is right in most places, with probabilities that lack some of 1: that of no domain."""
    rng = np.random.default_rng(1)
    drawn = rng.dirichlet([0.5] * 4, size=3 * NUM)
    drawn[np.arange(3 * NUM), np.repeat(np.arange(3), NUM)] += 0.3
    said = random_routes(run, rng)
    return Routes(
        router="r",
        domains=said.domains,
        threshold=said.threshold,
        example_domains=said.example_domains,
        example_ids=said.example_ids,
        probabilities=(drawn / 1.3)[:, :3],
        scores=said.scores,
        seconds=rng.random(3 * NUM),
    )


@pytest.fixture(scope="module")
def summary(run: RoutedRun, routes: Routes) -> Summary:
    return run.summary(routes, router=ROUTER)


@pytest.fixture(scope="module")
def routing(summary: Summary) -> RoutingSummary:
    assert summary.routing is not None
    return summary.routing


def test_the_accuracy_is_counted_over_all_and_by_domain_whatever_the_threshold(
    routing: RoutingSummary, routes: Routes
) -> None:
    said = [routes.domains[at] for at in routes.probabilities.argmax(axis=1)]
    assert [item.domain for item in routing.accuracy] == [None, *DOMAINS]
    for item in routing.accuracy:
        mine = [at for at, gold in enumerate(routes.example_domains) if item.domain in (None, gold)]
        assert item.n == len(mine)
        assert item.num_right == sum(said[at] == routes.example_domains[at] for at in mine)
        assert item.accuracy == item.num_right / item.n
        assert item.num_out_of_domain == sum(routes.scores[at] < routes.threshold for at in mine)
        bounds = binomtest(item.num_right, item.n).proportion_ci(method="wilson")
        assert (item.low, item.high) == pytest.approx((bounds.low, bounds.high))
    assert 0.5 < routing.accuracy[0].accuracy < 1


def test_the_confusion_is_scikit_learns(routing: RoutingSummary, routes: Routes) -> None:
    said = [routes.domains[at] for at in routes.probabilities.argmax(axis=1)]
    assert routing.domains == DOMAINS
    assert routing.confusion == confusion_matrix(routes.example_domains, said, labels=DOMAINS).tolist()


def test_the_calibration_is_that_of_the_runs_examples(routing: RoutingSummary, routes: Routes) -> None:
    """The rest of a row is a fourth column, no domain, for scikit-learn, which wants rows that add up to 1."""
    whole = np.column_stack([routes.probabilities, 1 - routes.probabilities.sum(axis=1)])
    gold = [DOMAINS.index(name) for name in routes.example_domains]
    assert routing.calibration.nll == pytest.approx(log_loss(gold, whole, labels=[0, 1, 2, 3]))
    assert sum(item.n for item in routing.calibration.bins) == 3 * NUM


def test_the_time_of_routing_is_the_mean(routing: RoutingSummary, routes: Routes) -> None:
    assert routing.route_s == pytest.approx(sum(routes.seconds) / len(routes.seconds))


def test_the_matrix_is_whole_unless_a_score_is_missing(run: RoutedRun, routes: Routes, routing: RoutingSummary) -> None:
    assert routing.oracle_is_whole
    values: dict[tuple[str, str], Values] = {**run.values, ("law", "expert-bio"): [None, *[1.0] * (NUM - 1)]}
    other = RoutedRun(values=values).summary(routes).routing
    assert other is not None
    assert not other.oracle_is_whole


def test_what_the_manifest_says_of_the_router_is_passed_on_and_its_test_in_its_own_place(
    run: RoutedRun, routes: Routes, routing: RoutingSummary
) -> None:
    assert routing.router == {"kind": "tfidf", "fingerprint": "f", "threshold": 0.4}
    assert routing.test_results is None
    tested = {
        "labels": DOMAINS,
        "num_train": 10,
        "num_validation": 2,
        "n": 3,
        "accuracy": 1.0,
        "accuracy_low": 0.3,
        "accuracy_high": 1.0,
        "macro_f1": 1.0,
        "per_label": [],
        "confusion": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "temperature": 1.5,
        "confident_temperature": 1.25,
        "before_scaling": routing.calibration.model_dump(),
        "after_scaling": routing.calibration.model_dump(),
        "out_of_domain_score": "energy",
        "threshold": 0.4,
        "own_kept": 0.95,
        "validation_out_of_domain": [],
        "out_of_domain": [],
        "train_s": 1.0,
        "seconds_per_text": 0.1,
    }
    found = run.summary(routes, router=ROUTER | {"test_results": tested}).routing
    assert found is not None
    assert found.test_results is not None
    assert found.test_results.model_dump() == tested
    assert found.router == routing.router


def test_a_summary_with_a_router_survives_being_written_and_read(summary: Summary) -> None:
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_any_order_of_the_routes_and_scores_gives_the_same_summary(
    run: RoutedRun, summary: Summary, routes: Routes
) -> None:
    order = np.random.default_rng(3).permutation(len(routes.example_ids))
    turned = Routes(
        router=routes.router,
        domains=routes.domains,
        threshold=routes.threshold,
        example_domains=tuple(routes.example_domains[at] for at in order),
        example_ids=tuple(routes.example_ids[at] for at in order),
        probabilities=routes.probabilities[order],
        scores=routes.scores[order],
        seconds=routes.seconds[order],
    )
    values = dict(reversed(list(run.values.items())))
    found = RoutedRun(values=values).summary(turned, router=ROUTER)
    without = {"routing": {"calibration"}}  # its bins are means in the order of the routes, which their file keeps
    assert found.model_dump_json(exclude=without) == summary.model_dump_json(exclude=without)


def test_two_runs_with_a_router_are_compared_and_the_router_that_changed_is_named(
    run: RoutedRun, routes: Routes
) -> None:
    routed = random_routes(run, np.random.default_rng(9))
    found = compare_runs(run.scored(routes, router=ROUTER), run.scored(routed, router=ROUTER | {"fingerprint": "g"}))
    assert [(change.key, change.first, change.second) for change in found.changes] == [
        ("router.fingerprint", '"f"', '"g"')
    ]
    assert found.only_first == found.only_second == []
    changes = {pair.first.system: pair.change for pair in found.pairs if pair.first.domain == "law"}
    assert [name for name, change in changes.items() if change is None] == ["oracle", "random", "best_single"]
    differences = {name: change.difference for name, change in changes.items() if change is not None}
    assert {name for name, difference in differences.items() if difference} == {"routed", "cascade"}
    assert all(change.p_value is not None for change in changes.values() if change)
    first, second = (routed_values(run, said, "law") for said in (routes, routed))
    assert differences["routed"] == pytest.approx(mean(second) - mean(first), abs=1e-12)


def routed_values(run: RoutedRun, routes: Routes, domain: str) -> list[float | None]:
    """What the routed experts score on a domain, example by example."""
    at = [row for row, name in enumerate(routes.example_domains) if name == domain]
    experts = [f"expert-{routes.domains[routes.chosen[row]]}" for row in at]
    return [run.values[domain, expert][place] for place, expert in enumerate(experts)]


def test_a_router_of_one_domain_is_always_right() -> None:
    run = RoutedRun(values={("d", BASE): [0.0, 1.0], ("d", "expert-d"): [1.0, 1.0]})
    routing = run.summary(run.all_to({"d": "d"})).routing
    assert routing is not None
    assert [item.num_right for item in routing.accuracy] == [2, 2]
    assert math.isclose(routing.calibration.ece, 0.4)
