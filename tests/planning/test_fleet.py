"""Fleets: taking and freeing are inverse, demands follow from sizes, and described hardware is read or refused."""

import random

import pytest

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import CapacityError, ConfigError
from moe_ray.planning.fleet import Demand, Fleet, Node, Slot, cpu_slots, demand_of, simulated_fleet

GIB = 1 << 30


def fleet() -> Fleet:
    return Fleet(
        (
            Node(id="a", name="a", num_cpus=8, cpu_slots=2, gpu_bytes=(80 * GIB,) * 4),
            Node(id="b", name="b", num_cpus=8, cpu_slots=1, gpu_bytes=(24 * GIB,) * 2),
        )
    )


def num_takeable(place: Fleet, gpus: float) -> int:
    slots = []
    while (slot := place.take(Demand(gpus=gpus, reason=""))) is not None:
        slots.append(slot)
    for slot in slots:
        place.free(slot)
    return len(slots)


@pytest.mark.parametrize("seed", range(50))
def test_taking_and_freeing_in_any_order_leaves_everything_free(seed: int) -> None:
    rng, place = random.Random(seed), fleet()
    held: list[Slot] = []
    for _ in range(200):
        if held and rng.random() < 0.5:
            place.free(held.pop(rng.randrange(len(held))))
        elif slot := place.take(Demand(gpus=rng.choice([0, 0.07, 0.3, 0.33, 0.5, 1, 2, 4]), reason="")):
            held.append(slot)
    for slot in held:
        place.free(slot)
    assert [num_takeable(place, gpus) for gpus in (0, 0.5, 1, 2, 4)] == [3, 12, 6, 3, 1]


def test_three_thirds_share_a_gpu_and_a_fourth_does_not() -> None:
    place = Fleet((Node(id="a", name="a", num_cpus=8, cpu_slots=0, gpu_bytes=(GIB,)),))
    assert num_takeable(place, 0.33) == 3
    assert num_takeable(place, 0.34) == 2


def test_slots_of_a_node_that_is_gone_are_forgotten() -> None:
    place = fleet()
    slot = place.take(Demand(gpus=4, reason=""))
    assert slot is not None
    place.remove(slot.node)
    place.free(slot)
    assert not place.can_ever_hold(Demand(gpus=3, reason=""))
    assert num_takeable(place, 1) == 2


@pytest.mark.parametrize(
    ("gpus", "total_gib", "wanted"),
    [
        ("auto", 9.0, 0.42),
        ("auto", 21.6, 1.0),
        ("auto", 22.0, 2.0),
        ("auto", 80.0, 4.0),
        ("auto", None, 1.0),
        (0.25, 60.0, 0.25),
        (2.0, 1.0, 2.0),
        (0.0, 1.0, 0.0),
    ],
)
def test_a_demand_follows_from_the_size_on_the_smallest_gpu(
    gpus: float | str, total_gib: float | None, wanted: float
) -> None:
    total = None if total_gib is None else int(total_gib * GIB)
    assert demand_of("m", gpus, total, fleet(), memory_fraction=0.9).gpus == pytest.approx(wanted)


def test_gpus_that_no_node_has_are_an_error_that_names_both_numbers() -> None:
    with pytest.raises(
        CapacityError, match=r"takes 5 GPU\(s\) \(as configured\), and the largest node has 4"
    ) as caught:
        demand_of("m", 5.0, None, fleet(), memory_fraction=0.9)
    assert caught.value.where == "models.m.gpus"
    with pytest.raises(CapacityError, match=r"100\.0 GiB over GPUs of 21\.6 GiB"):
        demand_of("m", "auto", 100 * GIB, fleet(), memory_fraction=0.9)


def test_without_gpus_models_take_cpu_slots_and_without_those_it_is_an_error() -> None:
    cpu = Fleet((Node(id="a", name="a", num_cpus=2, cpu_slots=1),))
    assert demand_of("m", "auto", 10 * GIB, cpu, memory_fraction=0.9).gpus == 0
    with pytest.raises(CapacityError, match="there is no CPU slot"):
        demand_of("m", 0.0, None, Fleet((Node(id="a", name="a", num_cpus=0, cpu_slots=0),)), memory_fraction=0.9)


@pytest.mark.parametrize(("num_cpus", "threads", "slots"), [(0, 2, 0), (1, 2, 1), (8, 2, 4), (9, 4, 2)])
def test_a_node_has_a_cpu_slot_for_each_group_of_threads(num_cpus: int, threads: int, slots: int) -> None:
    assert cpu_slots(RuntimeConfig(cpu_threads=threads), num_cpus) == slots


def test_configured_cpu_slots_hold_on_every_node_with_cpus() -> None:
    assert [cpu_slots(RuntimeConfig(cpu_slots=3), num_cpus) for num_cpus in (0, 1, 64)] == [0, 3, 3]


def test_described_hardware_becomes_nodes() -> None:
    nodes = list(simulated_fleet("8x80GiB + 2 x 24GB").nodes.values())
    assert [len(node.gpu_bytes) for node in nodes] == [8, 2]
    assert nodes[0].gpu_bytes[0] == 80 * GIB
    assert nodes[1].gpu_bytes[0] == 24 * 10**9


@pytest.mark.parametrize("text", ["", "8", "80GiB", "8x80", "8xGiB", "-1x80GiB", "8x80GiB +", "8x80TiB", "100001x1GiB"])
def test_hardware_that_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the hardware") as caught:
        simulated_fleet(text)
    assert "8x80GiB" in str(caught.value.remedy)
