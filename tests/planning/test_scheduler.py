"""The scheduler as a state machine: whatever happens, in whatever order, the work is done once or given up aloud."""

import math
import random
from collections import Counter

import pytest

from moe_ray.planning.cells import Shard
from moe_ray.planning.fleet import Demand, Fleet, Node
from moe_ray.planning.scheduler import Scheduler, Start
from tests.planning.cells import make_shard

GIB = 1 << 30


def cpu_node(name: str, slots: int = 1) -> Node:
    return Node(id=name, name=name, num_cpus=slots, cpu_slots=slots)


def gpu_node(name: str, num_gpus: int) -> Node:
    return Node(id=name, name=name, num_cpus=8, cpu_slots=0, gpu_bytes=(80 * GIB,) * num_gpus)


def demand(gpus: float) -> Demand:
    return Demand(gpus=gpus, reason="test")


def scheduler_of(
    nodes: list[Node], gpus: dict[str, float], num_shards: int, max_attempts: int = 3, num_cells: int = 2
) -> Scheduler:
    shards = [make_shard(model, number, num_cells) for model in gpus for number in range(num_shards)]
    return Scheduler(Fleet(tuple(nodes)), {m: demand(g) for m, g in gpus.items()}, shards, max_attempts=max_attempts)


def cell_keys(shard: Shard) -> list[str]:
    return [cell.key for cell in shard.cells]


class Play:
    """Plays random events against a scheduler, and keeps a ledger of its own of what every cell went through."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.models = {f"m{i}": self.rng.choice([0.25, 0.5, 1.0, 2.0]) for i in range(self.rng.randint(1, 4))}
        self.num_shards = self.rng.randint(1, 6)
        self.nodes = [gpu_node(f"n{i}", self.rng.randint(1, 3)) for i in range(self.rng.randint(1, 3))]
        self.max_attempts = self.rng.randint(1, 4)
        self.num_cells = self.rng.choice([1, 2, 5])
        self.scheduler = scheduler_of(
            list(self.nodes), self.models, self.num_shards, max_attempts=self.max_attempts, num_cells=self.num_cells
        )
        self.live: dict[str, Start] = {}
        self.held: dict[str, list[str]] = {}
        self.dying: list[str] = []
        self.shards: dict[str, Shard] = {}
        self.done: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.joined = 0

    def play(self) -> None:
        for _ in range(5000):
            for start in self.scheduler.starts():
                assert start.slot.node in self.scheduler.fleet.nodes
                self.live[start.replica] = start
                self.held[start.replica] = []
            self.scheduler.give_up_stranded()
            if self.scheduler.finished:
                return
            assert self.live or self.dying, (
                "work is left, nothing runs, and nothing was given up: it would wait for ever"
            )
            self._check_places()
            self.rng.choices(
                [self._work, self._complete, self._fail, self._lose, self._bury, self._lose_node, self._join_node],
                weights=[30, 30, 4, 4, 20, 1, 1],
            )[0]()
        raise AssertionError("no end")

    def _pick(self) -> str | None:
        return self.rng.choice(sorted(self.live)) if self.live else None

    def _work(self) -> None:
        replica = self._pick()
        if replica is None:
            return
        if len(self.held[replica]) < 2 and (shard := self.scheduler.next_shard(replica)) is not None:
            assert shard.model == self.live[replica].model
            in_flight = {cell for held in self.held.values() for id in held for cell in cell_keys(self.shards[id])}
            assert in_flight.isdisjoint(cell_keys(shard)), "handed out twice at once"
            assert self.done.keys().isdisjoint(cell_keys(shard)), "handed out after it was done"
            self.shards[shard.id] = shard
            self.held[replica].append(shard.id)
        elif self.scheduler.is_idle(replica):
            self._end(replica)

    def _complete(self) -> None:
        replica = self._pick()
        if replica is not None and self.held[replica]:
            shard = self.held[replica].pop(0)
            self.done.update(cell_keys(self.shards[shard]))
            self.scheduler.completed(replica, shard)

    def _fail(self) -> None:
        replica = self._pick()
        if replica is not None and self.held[replica]:
            shard = self.held[replica].pop(0)
            self._count_failure([shard])
            self.scheduler.failed(replica, shard, "failed")

    def _lose(self) -> None:
        replica = self._pick()
        if replica is None:
            return
        if self.held[replica] or self.rng.random() < 0.5:
            self._count_failure(self.held[replica][:1])
            self.scheduler.lost(replica, self.held[replica][:1], "lost")
        else:
            self.scheduler.start_failed(replica, "failed to start", permanent=self.rng.random() < 0.2)
        self._end(replica, dead=True)

    def _count_failure(self, shards: list[str]) -> None:
        self.failures.update(key for shard in shards for key in cell_keys(self.shards[shard]))

    def _end(self, replica: str, *, dead: bool = False) -> None:
        self.held.pop(replica)
        start = self.live.pop(replica)
        if dead and self.rng.random() < 0.5 and start.slot.node in self.scheduler.fleet.nodes:
            self.dying.append(replica)
        else:
            self.scheduler.retired(replica)

    def _bury(self) -> None:
        if self.dying:
            self.scheduler.retired(self.dying.pop(0))

    def _lose_node(self) -> None:
        if not self.scheduler.fleet.nodes:
            return
        node = self.rng.choice(sorted(self.scheduler.fleet.nodes))
        self.scheduler.node_lost(node)
        for replica in [name for name, start in self.live.items() if start.slot.node == node]:
            self._count_failure(self.held[replica][:1])
            self.scheduler.lost(replica, self.held[replica][:1], "node lost", node_gone=True)
            self._end(replica, dead=True)

    def _join_node(self) -> None:
        self.joined += 1
        self.nodes.append(gpu_node(f"late{self.joined}", self.rng.randint(1, 3)))
        self.scheduler.node_joined(self.nodes[-1])

    def _check_places(self) -> None:
        """No GPU holds more than one GPU's worth of replicas, and the whole-GPU ones have theirs to themselves."""
        taken: Counter[tuple[str, str]] = Counter()
        for start in self.live.values():
            if start.slot.node in self.scheduler.fleet.nodes:
                assert start.slot.num_gpus == self.models[start.model]
                taken.update(dict.fromkeys(start.slot.places, start.slot.share))
        assert all(share <= 1 + 1e-9 for share in taken.values())


@pytest.mark.parametrize("seed", range(300))
def test_every_shard_is_done_once_or_given_up_whatever_happens(seed: int) -> None:
    play = Play(seed)
    play.play()
    assert all(count == 1 for count in play.done.values())
    num_given_up = sum(entry.num_cells for entry in play.scheduler.abandoned)
    assert len(play.done) + num_given_up == len(play.models) * play.num_shards * play.num_cells
    depth = math.ceil(math.log2(play.num_cells))
    assert all(count <= play.max_attempts + depth for count in play.failures.values())
    for shard in {entry.shard for entry in play.scheduler.abandoned if entry.shard is not None}:
        assert play.done.keys().isdisjoint(cell_keys(play.shards[shard]))
        assert all(play.failures[key] >= play.max_attempts for key in cell_keys(play.shards[shard]))


@pytest.mark.parametrize("seed", range(20))
def test_the_same_events_give_the_same_orders(seed: int) -> None:
    first, second = Play(seed), Play(seed)
    first.play()
    second.play()
    assert first.scheduler.abandoned == second.scheduler.abandoned
    assert (first.done, first.failures) == (second.done, second.failures)


def work_off(scheduler: Scheduler, start: Start) -> int:
    num_shards = 0
    while (shard := scheduler.next_shard(start.replica)) is not None:
        scheduler.completed(start.replica, shard.id)
        num_shards += 1
    assert scheduler.is_idle(start.replica)
    scheduler.retired(start.replica)
    return num_shards


def test_on_one_slot_models_come_in_turn_each_once_with_all_its_work() -> None:
    scheduler = scheduler_of([cpu_node("n")], {"a": 0.0, "b": 0.0, "c": 0.0}, 3)
    seen = []
    while not scheduler.finished:
        (start,) = scheduler.starts()
        assert scheduler.starts() == []
        seen.append((start.model, work_off(scheduler, start)))
    assert seen == [("a", 3), ("b", 3), ("c", 3)]


def test_the_model_with_the_most_work_for_a_slot_goes_first() -> None:
    shards = [make_shard("small", 0), *(make_shard("large", number) for number in range(3))]
    demands = {"small": demand(0), "large": demand(0)}
    scheduler = Scheduler(Fleet((cpu_node("n"),)), demands, shards)
    assert [start.model for start in scheduler.starts()] == ["large"]
    costly = Scheduler(Fleet((cpu_node("n"),)), demands, shards, costs={"small": 100.0})
    assert [start.model for start in costly.starts()] == ["small"]


def test_shares_pack_onto_one_gpu_and_leave_the_other_whole() -> None:
    scheduler = scheduler_of([gpu_node("n", 2)], {"half": 0.5, "third": 0.3, "whole": 1.0}, 1)
    slots = {start.model: start.slot for start in scheduler.starts()}
    assert slots.keys() == {"half", "third", "whole"}
    assert slots["half"].gpu_indices == slots["third"].gpu_indices
    assert slots["whole"].gpu_indices != slots["half"].gpu_indices


def test_a_model_over_several_gpus_gets_whole_ones_of_one_node() -> None:
    scheduler = scheduler_of([gpu_node("small", 1), gpu_node("large", 4)], {"wide": 3.0, "narrow": 0.5}, 1)
    slots = {start.model: start.slot for start in scheduler.starts()}
    assert slots["wide"].node == "large"
    assert len(set(slots["wide"].gpu_indices)) == 3
    assert slots["wide"].num_gpus == 3.0
    if slots["narrow"].node == "large":
        assert slots["narrow"].gpu_indices[0] not in slots["wide"].gpu_indices


def test_work_that_no_place_could_hold_is_given_up_and_not_waited_for() -> None:
    scheduler = scheduler_of([gpu_node("n", 2), cpu_node("m")], {"wide": 2.0, "cpu": 0.0}, 2)
    starts = {start.model: start for start in scheduler.starts()}
    scheduler.node_lost("n")
    scheduler.lost(starts["wide"].replica, [], "node lost", node_gone=True)
    scheduler.retired(starts["wide"].replica)
    scheduler.give_up_stranded()
    assert scheduler.abandoned == [], "a replica runs: its end may change what is free"
    work_off(scheduler, starts["cpu"])
    scheduler.give_up_stranded()
    (entry,) = scheduler.abandoned
    assert (entry.model, entry.num_cells) == ("wide", 4)
    assert scheduler.finished


def test_a_node_that_joins_takes_over_from_one_that_is_gone() -> None:
    scheduler = scheduler_of([cpu_node("old")], {"m": 0.0}, 2)
    (start,) = scheduler.starts()
    shard = scheduler.next_shard(start.replica)
    assert shard is not None
    scheduler.node_lost("old")
    scheduler.node_joined(cpu_node("new"))
    scheduler.lost(start.replica, [shard.id], "node lost", node_gone=True)
    scheduler.retired(start.replica)
    (again,) = scheduler.starts()
    assert again.slot.node == "new"
    assert work_off(scheduler, again) == 2
    assert scheduler.finished


def test_copies_that_die_with_their_node_do_not_give_their_model_up() -> None:
    scheduler = scheduler_of([cpu_node("n", 4), cpu_node("spare")], {"m": 0.0}, 20, max_attempts=2)
    starts = scheduler.starts()
    assert len(starts) == 5
    scheduler.node_lost("n")
    for start in starts:
        if start.slot.node == "n":
            scheduler.lost(start.replica, [], "node lost", node_gone=True)
            scheduler.retired(start.replica)
    assert scheduler.abandoned == []
    (spare,) = (start for start in starts if start.slot.node == "spare")
    assert work_off(scheduler, spare) == 20


def test_copies_that_die_at_once_count_as_one_failure() -> None:
    scheduler = scheduler_of([cpu_node("n", 4)], {"m": 0.0}, 20, max_attempts=2)
    for start in scheduler.starts():
        scheduler.lost(start.replica, [], "out of memory")
        scheduler.retired(start.replica)
    assert scheduler.abandoned == []
    for start in scheduler.starts():
        scheduler.lost(start.replica, [], "out of memory")
        scheduler.retired(start.replica)
    (entry,) = scheduler.abandoned
    assert entry.reason == "2 failures in a row; the last: out of memory"
    assert scheduler.finished


def test_a_model_that_loads_on_one_node_goes_on_there_though_another_lacks_its_checkpoint() -> None:
    scheduler = scheduler_of([cpu_node("a"), cpu_node("b")], {"m": 0.0}, 6)
    good, bad = scheduler.starts()
    scheduler.start_failed(bad.replica, "no such folder", permanent=True)
    scheduler.retired(bad.replica)
    assert scheduler.starts() == []
    assert work_off(scheduler, good) == 6
    assert (scheduler.finished, scheduler.abandoned) == (True, [])


def test_a_model_that_loads_nowhere_is_given_up_with_its_reason() -> None:
    scheduler = scheduler_of([cpu_node("a"), cpu_node("b")], {"m": 0.0}, 6)
    for start in scheduler.starts():
        scheduler.start_failed(start.replica, "no such folder", permanent=True)
        scheduler.retired(start.replica)
    (entry,) = scheduler.abandoned
    assert (entry.model, entry.shard, entry.num_cells, entry.reason) == ("m", None, 12, "no such folder")
    assert scheduler.finished


def test_a_shard_that_waited_at_a_lost_replica_counts_no_attempt() -> None:
    scheduler = scheduler_of([cpu_node("n")], {"m": 0.0}, 2, max_attempts=2, num_cells=1)
    (start,) = scheduler.starts()
    running, waiting = scheduler.next_shard(start.replica), scheduler.next_shard(start.replica)
    assert running is not None
    assert waiting is not None
    scheduler.lost(start.replica, [running.id], "lost")
    scheduler.retired(start.replica)
    (start,) = scheduler.starts()
    assert [scheduler.next_shard(start.replica) for _ in range(2)] == [waiting, None]
    scheduler.failed(start.replica, waiting.id, "bad")
    assert scheduler.abandoned == []
    assert scheduler.next_shard(start.replica) == running
    scheduler.failed(start.replica, running.id, "bad")
    assert [entry.shard for entry in scheduler.abandoned] == [running.id]


def two_slots_after_one_model(busy_s: float) -> Scheduler:
    """Two slots; one model is done (ten seconds to load, `busy_s` for a shard), eight shards of another wait."""
    shards = [make_shard(name, number) for name, num in (("done", 5), ("waiting", 8)) for number in range(num)]
    demands = {name: demand(0) for name in ("done", "waiting")}
    scheduler = Scheduler(Fleet((cpu_node("n", slots=2),)), demands, shards)
    first = next(start for start in scheduler.starts() if start.model == "done")
    scheduler.loaded(first.replica, 10.0)
    while (shard := scheduler.next_shard(first.replica)) is not None:
        scheduler.completed(first.replica, shard.id, busy_s)
    scheduler.retired(first.replica)
    return scheduler


def test_a_second_copy_is_not_loaded_for_work_that_is_done_before_it_is_there() -> None:
    assert two_slots_after_one_model(busy_s=0.1).starts() == []


def test_a_second_copy_is_loaded_for_work_that_takes_longer() -> None:
    assert [start.model for start in two_slots_after_one_model(busy_s=60.0).starts()] == ["waiting"]


def test_two_copies_of_a_model_never_share_a_gpu_though_they_would_fit() -> None:
    starts = scheduler_of([gpu_node("n", 2)], {"small": 0.25}, num_shards=20).starts()
    assert sorted(start.slot.gpu_indices for start in starts) == [(0,), (1,)]


def test_the_last_shards_go_to_the_first_free_replica() -> None:
    scheduler = scheduler_of([cpu_node("n", slots=2)], {"m": 0}, num_shards=5)
    first, second = (start.replica for start in scheduler.starts())
    held = [scheduler.next_shard(replica) for replica in (first, second, first)]
    assert None not in held, "two copies, and at least as many shards are left: one works, one waits"
    assert scheduler.next_shard(second) is not None, "as many are left as there are copies"
    assert scheduler.next_shard(first) is None, "the last one waits for no busy copy"
    for shard in (held[0], held[2]):
        assert shard is not None
        scheduler.completed(first, shard.id)
    assert scheduler.next_shard(first) is not None


def test_a_single_copy_always_has_a_shard_in_stock() -> None:
    scheduler = scheduler_of([cpu_node("n")], {"m": 0}, num_shards=3)
    (start,) = scheduler.starts()
    assert [scheduler.next_shard(start.replica) is not None for _ in range(3)] == [True, True, True]


def test_a_free_slot_goes_to_the_model_whose_queue_takes_longest_as_measured() -> None:
    scheduler = scheduler_of([cpu_node("n", slots=3)], {"quick": 0, "slow": 0, "brief": 0}, num_shards=40)
    replicas = {start.model: start.replica for start in scheduler.starts()}
    for model, busy_s, num_shards in (("quick", 1.0, 5), ("slow", 10.0, 10), ("brief", 1.0, 40)):
        for _ in range(num_shards):
            shard = scheduler.next_shard(replicas[model])
            assert shard is not None
            scheduler.completed(replicas[model], shard.id, busy_s)
    scheduler.retired(replicas["brief"])
    assert [start.model for start in scheduler.starts()] == ["slow"], "30 shards of 10 s, against 35 of 1 s"
