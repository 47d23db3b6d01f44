"""Which slot each served model gets: one of its own while there is room, else turns with others."""

import pytest

from moe_ray.errors import CapacityError
from moe_ray.planning.fleet import Demand, Fleet, Node
from moe_ray.serving.system import lay_out

GIB = 1 << 30


def fleet(*, num_gpus: int = 0, cpu_slots: int = 0) -> Fleet:
    gpu_bytes = (80 * GIB,) * num_gpus
    return Fleet((Node(id="n", name="n", num_cpus=8, cpu_slots=cpu_slots, gpu_bytes=gpu_bytes),))


def models_of(demands: dict[str, float], on: Fleet, copies: dict[str, int] | None = None) -> list[tuple[str, ...]]:
    """The models of each slot."""
    wanted = {name: Demand(gpus=gpus, reason="for the test") for name, gpus in demands.items()}
    return [slot.models for slot in lay_out(wanted, on, copies or {})]


def test_each_model_has_a_slot_of_its_own_while_there_is_room() -> None:
    assert models_of({"a": 0, "b": 0, "c": 0}, fleet(cpu_slots=3)) == [("a",), ("b",), ("c",)]


def test_models_without_room_join_the_slots_with_the_fewest_models() -> None:
    assert models_of(dict.fromkeys("abcde", 0), fleet(cpu_slots=2)) == [("a", "c", "e"), ("b", "d")]


def test_all_models_take_turns_on_one_slot() -> None:
    assert models_of({"a": 1, "b": 1, "c": 0.5}, fleet(num_gpus=1)) == [("a", "b", "c")]


def test_the_largest_model_comes_first_so_that_others_can_join_its_slot() -> None:
    assert models_of({"small": 1, "large": 2, "medium": 1}, fleet(num_gpus=2)) == [("large", "small", "medium")]


def test_two_models_share_a_gpu_that_holds_both() -> None:
    on = fleet(num_gpus=1)
    slots = lay_out({name: Demand(gpus=0.5, reason="") for name in "ab"}, on, {})
    assert [(slot.models, slot.slot.share, slot.slot.gpu_indices) for slot in slots] == [
        (("a",), 0.5, (0,)),
        (("b",), 0.5, (0,)),
    ]


def test_a_model_joins_no_slot_that_is_too_small_for_it() -> None:
    demands = {"whole": 1.0, "half": 0.5, "quarter": 0.25}
    assert models_of(demands, fleet(num_gpus=1)) == [("whole", "half", "quarter")]
    assert models_of({"half": 0.5, "other half": 0.5, "third": 0.5}, fleet(num_gpus=1)) == [
        ("half", "third"),
        ("other half",),
    ]


def test_a_model_on_cpu_and_one_on_a_gpu_do_not_take_turns() -> None:
    assert models_of({"gpu": 1, "cpu": 0, "cpu too": 0}, fleet(num_gpus=1, cpu_slots=1)) == [
        ("gpu",),
        ("cpu", "cpu too"),
    ]


def test_copies_come_after_every_model_has_a_slot_and_those_without_room_are_left_out() -> None:
    copies = {"a": 3, "b": 2}
    assert models_of({"a": 0, "b": 0}, fleet(cpu_slots=4), copies) == [("a",), ("b",), ("a",), ("a",)]
    assert models_of({"a": 0, "b": 0}, fleet(cpu_slots=2), copies) == [("a",), ("b",)]
    assert models_of({"a": 0, "b": 0, "c": 0}, fleet(cpu_slots=2), copies) == [("a", "c"), ("b",)]


def test_slots_have_names_of_their_own() -> None:
    slots = lay_out({name: Demand(gpus=0, reason="") for name in "ab"}, fleet(cpu_slots=3), {"a": 2})
    assert [slot.name for slot in slots] == ["slot-0", "slot-1", "slot-2"]
    assert not any(slot.uses_gpu for slot in slots)


@pytest.mark.parametrize("cpu_slots", [0, 4])
def test_a_model_that_fits_nowhere_is_named_with_what_it_takes(cpu_slots: int) -> None:
    with pytest.raises(CapacityError, match=r"models\.large.*2 GPU\(s\) \(for the test\)"):
        models_of({"small": 1, "large": 2}, fleet(num_gpus=1, cpu_slots=cpu_slots))
