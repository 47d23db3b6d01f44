"""What each of several processes that share a run takes, waits for, and leaves to the others."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from moe_ray.execution import claims
from moe_ray.execution.claims import SharedClaims
from moe_ray.planning.cells import Shard, missing_shards
from moe_ray.store.committed import CommittedKeys
from moe_ray.store.holder import this_process
from moe_ray.store.members import Member, Watch
from moe_ray.store.run_directory import RunDirectory
from moe_ray.store.work_leases import WorkLeases
from tests.support.sharing import all_shards, answer_of

SHARDS = all_shards()[:4]


class Process:
    """One of several processes that share a run. Each believes to be on a machine of its own."""

    def __init__(self, run: RunDirectory, host: str) -> None:
        self.run = run
        self.member = Member(run, replace(this_process(), host=host))
        self.leases = WorkLeases(self.member)
        answers = CommittedKeys(run)
        pieces = {cell.key: shard.id for shard in SHARDS for cell in shard.cells}
        self.claims = SharedClaims(self.leases, answers, missing_shards(SHARDS, answers.refresh()), pieces)

    def is_done(self) -> bool:
        return self.claims.finished

    def commit(self, shard: Shard) -> None:
        self.run.write_shard([answer_of(cell) for cell in shard.cells])
        self.claims.committed(shard)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setattr(claims, "LOOK_S", 0.0)
    monkeypatch.setattr(claims, "LOOK_S_FOR_EACH_PROCESS", 0.0)
    directory = RunDirectory(tmp_path / "run")
    directory.prepare()
    return directory


@pytest.fixture
def processes(run: RunDirectory) -> Iterator[list[Process]]:
    """Three processes."""
    with ExitStack() as stack:
        everyone = [Process(run, f"node{number}") for number in range(3)]
        for process in everyone:
            stack.enter_context(process.member.joined())
        yield everyone


def die(monkeypatch: pytest.MonkeyPatch, process: Process) -> None:
    """From now on, the others take a process for dead."""
    owner = process.member.holder.owner
    monkeypatch.setattr(Watch, "is_dead", lambda _watch, holder: holder.owner == owner)


def test_a_shard_that_another_process_has_is_withdrawn_and_comes_back_when_that_one_dies(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = processes
    assert one.claims.take(SHARDS[0])
    assert one.claims.take(SHARDS[1])
    assert not other.claims.take(SHARDS[0])
    assert third.claims.look(is_idle=False).withdrawn == {SHARDS[0].id, SHARDS[1].id}
    other.claims.look(is_idle=False)
    die(monkeypatch, one)
    assert set(third.claims.look(is_idle=False).freed) == {SHARDS[0], SHARDS[1]}
    # An idle process leases one shard before it loads a model; the rest goes to the queue of everyone.
    (first, *_) = other.claims.look(is_idle=True).freed
    assert not third.claims.take(first)
    (rest,) = {SHARDS[0], SHARDS[1]} - {first}
    assert third.claims.take(rest)


def test_answers_of_others_are_counted_once_and_ones_own_never(processes: list[Process]) -> None:
    one, other, _ = processes
    assert one.claims.take(SHARDS[0])
    one.commit(SHARDS[0])
    assert one.claims.look(is_idle=False).committed == {}
    news = other.claims.look(is_idle=False)
    assert (dict(news.committed), set(news.withdrawn)) == ({"m": 3}, {SHARDS[0].id})
    assert other.claims.look(is_idle=False).committed == {}
    assert not other.claims.take(SHARDS[0])


def test_a_process_waits_for_what_others_compute_and_for_nothing_else(processes: list[Process]) -> None:
    one, other, _ = processes
    for shard in SHARDS[:3]:
        assert one.claims.take(shard)
    assert other.claims.take(SHARDS[3])
    other.commit(SHARDS[3])
    other.claims.look(is_idle=True)
    assert not other.is_done()
    for shard in SHARDS[:3]:
        one.commit(shard)
    other.claims.look(is_idle=True)
    assert other.is_done()
    one.claims.look(is_idle=True)
    assert one.is_done()


def test_a_shard_that_was_given_up_is_tried_by_one_more_process(processes: list[Process]) -> None:
    one, other, third = processes
    for shard in SHARDS[1:]:
        assert one.claims.take(shard)
        one.commit(shard)
    assert one.claims.take(SHARDS[0])
    one.claims.gave_up([])
    assert one.is_done()
    other.claims.look(is_idle=False)
    assert not other.is_done()
    assert other.claims.take(SHARDS[0])
    one.claims.look(is_idle=True)
    assert not one.is_done()  # the other one may still do it
    other.claims.gave_up([])
    for process in (one, third):
        process.claims.look(is_idle=True)
        assert process.is_done()


def test_shards_in_the_queue_are_not_given_up_with_another_model(processes: list[Process]) -> None:
    one = processes[0]
    assert one.claims.take(SHARDS[0])
    one.claims.gave_up(SHARDS[2:])
    assert not one.is_done()
    for shard in SHARDS[2:]:
        assert one.claims.take(shard)
        one.commit(shard)
    assert one.is_done()


def test_what_is_left_of_a_shard_is_a_shard_of_its_own_under_the_same_lease(processes: list[Process]) -> None:
    one, other, _ = processes
    run, shard = one.run, SHARDS[0]
    run.write_shard([answer_of(shard.cells[0])])
    assert not one.claims.take(shard)
    (left,) = one.claims.look(is_idle=False).freed
    assert left.cells == shard.cells[1:]
    assert one.claims.take(left)
    assert not other.claims.take(shard)
    one.commit(left)
    other.claims.look(is_idle=False)
    assert not other.claims.take(shard)


def test_halves_of_a_shard_keep_its_lease_until_both_are_done(processes: list[Process]) -> None:
    one, other, _ = processes
    assert one.claims.take(SHARDS[0])
    parts = [replace(SHARDS[0], id=f"part {at}", cells=SHARDS[0].cells[at : at + 2]) for at in (0, 2)]
    for part in parts:
        assert one.claims.take(part)
        assert not other.claims.take(SHARDS[0])
        one.commit(part)
    other.claims.look(is_idle=False)
    assert not other.claims.take(SHARDS[0])
    assert other.leases.look().elsewhere == frozenset()


def test_a_probe_is_measured_by_one_process(processes: list[Process]) -> None:
    assert [process.claims.take_probe("m") for process in processes] == [True, False, False]
