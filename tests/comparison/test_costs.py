"""What an example costs a system behind a router, from seconds and bytes that are known."""

import numpy as np
import pytest

from moe_ray.comparison.costs import RESTART_FACTOR, cost_ratio
from moe_ray.comparison.records import ExampleCost, Summary
from moe_ray.report.measures import is_shown
from tests.comparison.routed_run import BASE, RoutedRun, Values

ROUTER_S = 0.25
BUSY_S = {BASE: 1.0, "expert-a": 2.0, "expert-b": 4.0}
MEMORY: dict[str, int | None] = {BASE: 100, "expert-a": 10, "expert-b": 30}


def run_of(memory: dict[str, int | None], *, unscored: bool = False) -> RoutedRun:
    values: dict[tuple[str, str], Values] = {
        (domain, model): [1.0, None if unscored and model == "expert-b" else 0.0]
        for domain in "ab"
        for model in (BASE, "expert-a", "expert-b")
    }
    return RoutedRun(values=values, busy_s=BUSY_S, memory_bytes=memory)


def summary_of(run: RoutedRun) -> Summary:
    """Of domain a, the router sends the first example to a and the second to b; it finds the first out-of-domain."""
    return run.summary(
        run.routes({"a": ["a", "b"], "b": ["b", "b"]}, {"a": [0.1, 0.9], "b": [0.9, 0.9]}, threshold=0.5)
    )


def cost_of(summary: Summary, system: str) -> ExampleCost:
    found = summary.cost(system, "a")
    assert found is not None
    return found


def test_the_routers_seconds_are_part_of_what_a_routed_example_costs() -> None:
    summary = summary_of(run_of(MEMORY))
    routed, cascade, experts = (cost_of(summary, name) for name in ("routed", "cascade", "experts"))
    assert (routed.busy_s, routed.router_s) == ((2.0 + 4.0) / 2 + ROUTER_S, ROUTER_S)
    assert (cascade.busy_s, cascade.router_s) == ((1.0 + 4.0) / 2 + ROUTER_S, ROUTER_S)
    assert (experts.busy_s, experts.router_s) == (2.0, None)


def test_the_picked_models_memory_is_held_while_the_router_works() -> None:
    found = cost_of(summary_of(run_of(MEMORY)), "cascade")
    assert found.memory_byte_s == pytest.approx(((1.0 + ROUTER_S) * 100 + (4.0 + ROUTER_S) * 30) / 2)
    assert found.memory_kind == "torch"


def test_all_models_that_a_system_may_pick_are_resident_whether_it_picked_them_or_not() -> None:
    summary = summary_of(run_of(MEMORY))
    found = {cost.system: cost.resident_bytes for cost in summary.costs if cost.domain == "a"}
    assert found == {
        "baseline": 100,
        "experts": 40,
        "routed": 40,
        "cascade": 140,
        "oracle": 140,
        "random": 40,
        "best_single": 100,
        BASE: 100,
        "expert-a": 10,
        "expert-b": 30,
    }


def test_memory_that_one_model_lacks_is_unknown_for_every_system_that_may_pick_it() -> None:
    summary = summary_of(run_of(MEMORY | {"expert-b": None}))
    assert cost_of(summary, "routed").memory_byte_s is None
    assert cost_of(summary, "routed").resident_bytes is None
    assert cost_of(summary, "baseline").resident_bytes == 100


def test_examples_without_an_answer_are_left_out_with_the_routers_time_for_them() -> None:
    found = cost_of(summary_of(run_of(MEMORY, unscored=True)), "routed")
    assert (found.n, found.busy_s, found.router_s) == (1, 2.0 + ROUTER_S, ROUTER_S)


def test_the_ratio_to_the_baseline_has_an_interval_over_batches() -> None:
    """Of independent batches it covers the truth in 95 % of the draws or more, the allowance left aside."""
    rng = np.random.default_rng(0)
    num_covered = 0
    for _ in range(200):
        times = [rng.lognormal(0, 0.4, 12) * factor for factor in (1.5, 1.0)]
        sides = [np.repeat(part, 8) for part in times]  # the answers of a batch share its time
        batches = np.repeat(np.arange(12), 8)
        found = cost_ratio(sides[0], batches, sides[1], batches)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.value == pytest.approx(times[0].mean() / times[1].mean())
        num_covered += found.low * RESTART_FACTOR <= 1.5 <= found.high / RESTART_FACTOR
    assert num_covered >= 184


def test_models_of_equal_cost_are_not_told_apart_by_what_a_start_adds() -> None:
    """For instance 1.19 to 1.23 times between models of one size, each batch alike."""
    rng = np.random.default_rng(1)
    mine, other = 1.23 * rng.normal(1, 0.02, 80), rng.normal(1, 0.02, 80)
    found = cost_ratio(mine, np.arange(80), other, np.arange(80))
    assert found is not None
    assert not is_shown(found)
    twice = cost_ratio(2 * mine, np.arange(80), other, np.arange(80))
    assert is_shown(twice)


def test_one_batch_gives_no_interval_and_no_claim() -> None:
    one = np.zeros(8, dtype=np.intp)
    found = cost_ratio(np.full(8, 5.0), one, np.full(8, 1.0), one)
    assert found is not None
    assert (found.value, found.low, found.high, found.num_batches) == (5.0, None, None, 1)
    assert not is_shown(found)


def test_costs_that_are_unknown_have_no_ratio() -> None:
    unknown = np.full(3, np.nan)
    assert cost_ratio(unknown, np.arange(3), np.ones(3), np.arange(3)) is None
    assert cost_ratio(np.ones(3), np.arange(3), np.zeros(3), np.arange(3)) is None
