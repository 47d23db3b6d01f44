"""One example that ends its process is found among the others of its shard, at a bounded cost."""

import math
from collections import Counter
from collections.abc import Collection

import pytest

from moe_ray.planning.cells import Attempts, Shard
from moe_ray.planning.fleet import Demand, Fleet, Node
from moe_ray.planning.scheduler import Scheduler
from tests.planning.cells import make_shard

MAX_ATTEMPTS = 3


class Machine:
    """Slots on which the process of a model ends whenever it computes an example at fault."""

    def __init__(self, shards: list[Shard], faults: Collection[str], *, num_slots: int = 1) -> None:
        self.faults = faults
        self.num_deaths = 0
        self.done: Counter[str] = Counter()
        fleet = Fleet((Node(id="n", name="n", num_cpus=num_slots, cpu_slots=num_slots),))
        demands = {shard.model: Demand(gpus=0, reason="test") for shard in shards}
        self.scheduler = Scheduler(fleet, demands, shards, max_attempts=MAX_ATTEMPTS)

    def work(self) -> None:
        """Let the replicas take turns, each a shard a turn with one more waiting, until nothing is left."""
        held: dict[str, list[Shard]] = {}
        while not self.scheduler.finished:
            held.update((start.replica, []) for start in self.scheduler.starts())
            for replica, shards in list(held.items()):
                while len(shards) < 2 and (shard := self.scheduler.next_shard(replica)) is not None:
                    shards.append(shard)
                if not shards or not self._run(replica, shards.pop(0)):
                    self.scheduler.retired(replica)
                    del held[replica]

    def _run(self, replica: str, shard: Shard) -> bool:
        if any(cell.example_id in self.faults for cell in shard.cells):
            self.num_deaths += 1
            self.scheduler.lost(replica, [shard.id], "died")
            return False
        self.done.update(cell.example_id for cell in shard.cells)
        self.scheduler.completed(replica, shard.id)
        return True


@pytest.mark.parametrize("num_slots", [1, 3])
@pytest.mark.parametrize("num_cells", [1, 2, 7, 32])
@pytest.mark.parametrize("num_shards", [1, 5])
def test_of_a_shard_with_one_example_at_fault_all_others_are_answered(
    num_slots: int, num_cells: int, num_shards: int
) -> None:
    for fault in range(num_cells):
        shards = [make_shard("m", number, num_cells) for number in range(num_shards)]
        machine = Machine(shards, {f"e{fault}"}, num_slots=num_slots)
        machine.work()
        assert set(machine.done) == {cell.example_id for shard in shards for cell in shard.cells} - {f"e{fault}"}
        assert set(machine.done.values()) <= {1}
        (given_up,) = machine.scheduler.abandoned
        assert given_up.num_cells == 1
        assert given_up.reason == f"example e{fault} of d failed {machine.num_deaths} times; the last: died"
        assert machine.num_deaths <= MAX_ATTEMPTS + math.ceil(math.log2(num_cells))


@pytest.mark.parametrize("second", range(1, 32))
def test_two_examples_at_fault_in_one_shard_are_both_found(second: int) -> None:
    shard = make_shard("m", 0, 32)
    machine = Machine([shard], {"e0", f"e{second}"})
    machine.work()
    assert len(machine.done) == 30
    assert [entry.num_cells for entry in machine.scheduler.abandoned] == [1, 1]


@pytest.mark.parametrize("num_cells", [1, 2, 3, 32, 33, 1000])
def test_a_shard_of_which_every_cell_fails_is_over_after_few_deaths(num_cells: int) -> None:
    shard = make_shard("m", 0, num_cells)
    machine = Machine([shard], {cell.example_id for cell in shard.cells})
    machine.work()
    assert sum(entry.num_cells for entry in machine.scheduler.abandoned) == num_cells
    assert machine.num_deaths <= MAX_ATTEMPTS + 4 * math.ceil(math.log2(num_cells))


def test_examples_at_fault_in_the_last_shards_of_a_model_do_not_give_the_model_up() -> None:
    shards = [make_shard("m", number, 8) for number in range(6)]
    faults = {shard.cells[3].example_id for shard in shards[::2]}
    machine = Machine(shards, faults)
    machine.work()
    assert len(machine.done) == 6 * 8 - len(faults)


def test_a_model_that_dies_of_every_shard_is_given_up_after_as_many_shards_as_attempts() -> None:
    shards = [make_shard("m", number, 8) for number in range(6)]
    machine = Machine(shards, {cell.example_id for shard in shards for cell in shard.cells})
    machine.work()
    (given_up,) = machine.scheduler.abandoned
    assert (given_up.num_cells, given_up.reason) == (48, "3 failures in a row; the last: died")
    assert machine.num_deaths == MAX_ATTEMPTS


def test_parts_are_halves_in_their_order_and_know_where_they_came_from() -> None:
    shard, attempts = make_shard("m", 0, 5), Attempts(1)
    assert not attempts.has_failed(shard.id)
    first, second = attempts.failed(shard, "bad").retries
    assert (first.cells, second.cells) == (shard.cells[:3], shard.cells[3:])
    assert attempts.has_failed(first.id)
    assert attempts.has_failed(second.id)


def test_a_shard_that_failed_has_its_replica_to_itself() -> None:
    shards = [make_shard("m", number, 1) for number in range(3)]
    scheduler = Machine(shards, set()).scheduler
    (start,) = scheduler.starts()
    assert scheduler.next_shard(start.replica) == shards[0]
    scheduler.failed(start.replica, shards[0].id, "bad")
    assert [scheduler.next_shard(start.replica) for _ in range(2)] == shards[1:]
    assert scheduler.next_shard(start.replica) is None, "others are in flight"
    for shard in shards[1:]:
        scheduler.completed(start.replica, shard.id)
    assert scheduler.next_shard(start.replica) == shards[0]
    scheduler.completed(start.replica, shards[0].id)
    assert scheduler.finished is False
    assert scheduler.is_idle(start.replica)
