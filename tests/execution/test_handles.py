"""What is asked of Ray for a slot, and which calls are late."""

from decimal import Decimal

import pytest

from moe_ray.execution.handles import Call, CallKind, Calls, cores_of_a_slot
from moe_ray.planning.fleet import Node


@pytest.mark.parametrize("num_cpus", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize("cpu_slots", [1, 2, 3, 6, 7, 11])
def test_all_slots_of_a_node_fit_into_its_cores_as_ray_counts_them(num_cpus: int, cpu_slots: int) -> None:
    cores = cores_of_a_slot(Node(id="n", name="n", num_cpus=num_cpus, cpu_slots=cpu_slots))
    as_ray_counts = Decimal(round(cores * 10_000)) / 10_000
    assert as_ray_counts * cpu_slots <= num_cpus
    assert cores == pytest.approx(num_cpus / cpu_slots, abs=1e-4)


def call(kind: CallKind, replica: str, deadline: float) -> Call:
    return Call(kind=kind, replica=replica, deadline=deadline)


def test_of_each_replica_the_first_late_call_is_reported_once() -> None:
    calls = Calls()
    never, long_ago = float("inf"), float("-inf")
    added = [
        call("shard", "a", long_ago),
        call("shard", "a", long_ago),
        call("load", "b", never),
        call("place", "c", -1.0),
    ]
    for number, entry in enumerate(added):
        calls.add(number, entry)
    assert calls.overdue() == [added[0], added[3]]
    calls.drop("a")
    assert calls.overdue() == [added[3]]
    assert len(calls) == 2
