"""What an example costs a system behind a router, from seconds and bytes that are known."""

import pytest

from moe_ray.comparison.records import ExampleCost, Summary
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
    """Of domain a, the router sends the first example to a and the second to b; it finds the first foreign."""
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
