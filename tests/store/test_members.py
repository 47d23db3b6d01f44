"""Live and dead processes of a shared run, the leases that they take, and commands that want the run alone."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.store import lock, members
from moe_ray.store.holder import Holder, this_process
from moe_ray.store.lease import create_lease
from moe_ray.store.lock import exclusive, shared
from moe_ray.store.members import EXPIRY_S, MAX_GAP_S, Member, MemberRecord, Watch, member_records
from moe_ray.store.run_directory import RunDirectory
from moe_ray.store.work_leases import WorkLeases

CANNOT_LOCK = [errno.ENOSYS, errno.ENOLCK, errno.EIO]
ELSEWHERE = Holder("other", "another-host", 1)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.prepare()
    return directory


@pytest.fixture(params=[None, *CANNOT_LOCK], ids=["flock", "ENOSYS", "ENOLCK", "EIO"])
def any_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that locks, and those that do not."""
    if request.param is not None:
        fail_with(monkeypatch, request.param)
    monkeypatch.setattr(lock, "JOIN_LIMIT_S", 0.1)
    for name, value in (("POLL_S", 0.01), ("RENEW_S", 0.02), ("EXPIRY_S", 0.5)):
        monkeypatch.setattr(members, name, value)


def fail_with(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)


def write_record(run: RunDirectory, holder: Holder, beat: int, *, age_s: float = 0.0) -> None:
    path = run.path / ".leases" / "members" / f"{holder.owner}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MemberRecord(holder=holder, beat=beat).model_dump_json())
    changed = path.stat().st_mtime - age_s
    os.utime(path, (changed, changed))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def look_for(watch: Watch, clock: Clock, seconds: float) -> bool:
    """Look each second; returns whether the other process is dead in the end."""
    for _ in range(int(seconds)):
        clock.now += 1
        watch.is_dead(ELSEWHERE)
    return watch.is_dead(ELSEWHERE)


@pytest.mark.parametrize("clock_error_s", [-600, 0, 600])
def test_a_silent_process_is_dead_after_its_time_and_no_clock_but_the_watchers_counts(
    run: RunDirectory, clock_error_s: float
) -> None:
    clock = Clock()
    watch = Watch(run, this_process(), clock)
    write_record(run, ELSEWHERE, 1, age_s=-clock_error_s)
    assert not look_for(watch, clock, EXPIRY_S - 1)
    write_record(run, ELSEWHERE, 2, age_s=-clock_error_s)
    assert not look_for(watch, clock, EXPIRY_S - 1)
    assert watch.has_beaten(ELSEWHERE)
    assert look_for(watch, clock, EXPIRY_S + 1)


def test_a_watcher_that_was_suspended_does_not_take_the_others_for_dead(run: RunDirectory) -> None:
    clock = Clock()
    watch = Watch(run, this_process(), clock)
    write_record(run, ELSEWHERE, 1)
    assert not watch.is_dead(ELSEWHERE)
    clock.now += 1000
    assert not watch.is_dead(ELSEWHERE)
    assert look_for(watch, clock, EXPIRY_S - MAX_GAP_S)


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once(run: RunDirectory) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    watch = Watch(run, this_process())
    assert watch.is_dead(replace(this_process(), pid=process.pid))
    assert not watch.is_dead(replace(this_process(), host="another"))


def test_the_elements_of_an_array_that_share_a_run_are_jobs_of_their_own() -> None:
    array = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_JOB_ID": "19", "SLURM_CLUSTER_NAME": "c"}
    first = this_process({**array, "SLURM_ARRAY_TASK_ID": "1"}, shares=True)
    second = this_process({**array, "SLURM_ARRAY_TASK_ID": "2"}, shares=True)
    requeued = this_process({**array, "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "1"}, shares=True)
    assert (second.slurm_job_id, second.slurm_restart_count) == ("17_2", 0)
    assert not first.is_earlier_life_of(second)
    assert second.is_earlier_life_of(requeued)


@contextmanager
def several(run: RunDirectory, number: int) -> Iterator[list[WorkLeases]]:
    """Processes on machines of their own that share `run`, as objects of this one."""
    with ExitStack() as stack:
        everyone = [Member(run, replace(this_process(), host=f"node{index}")) for index in range(number)]
        for member in everyone:
            stack.enter_context(member.joined())
        yield [WorkLeases(member) for member in everyone]


def expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, a process is dead when it was silent between two looks."""
    monkeypatch.setattr(members, "EXPIRY_S", 1e-9)


def test_a_part_has_one_holder_until_it_is_given_back(run: RunDirectory) -> None:
    with several(run, 2) as (one, other):
        assert one.take("part")
        assert one.take("part")
        assert not other.take("part")
        assert other.look().elsewhere == {"part"}
        assert one.look().elsewhere == frozenset()
        one.release("part")
        assert other.take("part")


@pytest.mark.parametrize("content", [None, "", "[" * 4000])
def test_of_many_that_find_a_part_of_a_dead_process_one_takes_it(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """Also where the process died before its name was in the lease."""
    with several(run, 8) as everyone:
        path = run.path / ".leases" / "work" / "part.0"
        if content is None:
            create_lease(path, ELSEWHERE)
        else:
            path.write_text(content)
        assert [leases.take("part") for leases in everyone] == [False] * 8
        monkeypatch.setattr(
            Watch, "is_dead", lambda _watch, holder: holder.owner in (ELSEWHERE.owner, "part.0") or holder.is_gone
        )
        start, taken = threading.Barrier(8), []

        def attempt(leases: WorkLeases) -> None:
            start.wait()
            if leases.take("part"):
                taken.append(leases)

        threads = [threading.Thread(target=attempt, args=(leases,)) for leases in everyone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Two that see each other's new lease both step back, and try again.
        assert len(taken) <= 1
        (holder,) = taken or [leases for leases in everyone if leases.take("part")]
        holder.release("part")
        assert list((run.path / ".leases" / "work").iterdir()) == []


def test_a_process_that_returns_removes_no_lease_of_its_successor(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with several(run, 2) as (one, other):
        assert one.take("part")
        assert not other.take("part")
        with monkeypatch.context() as patched:
            expire(patched)
            assert other.take("part")
        one.release("part")
        assert not WorkLeases(one.member).take("part")
        other.release("part")
        assert one.take("part")


def test_a_part_that_two_processes_gave_up_is_not_tried_by_a_third(run: RunDirectory) -> None:
    with several(run, 3) as (one, other, third):
        for leases in (one, other):
            assert third.look().failed == frozenset()
            assert leases.take("part")
            leases.give_up("part")
        assert third.look().failed == {"part"}


def test_a_part_for_one_process_at_a_time_is_waited_for(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_ray.store.work_leases.POLL_S", 0.01)
    with several(run, 2) as (one, other):
        order: list[str] = []
        waiting = threading.Event()

        def note(text: str) -> None:
            order.append(text)
            waiting.set()

        def wait_and_enter() -> None:
            with other.alone("report", note):
                order.append("second")

        with one.alone("report", note):
            thread = threading.Thread(target=wait_and_enter)
            thread.start()
            assert waiting.wait(10)
            order.append("first")
        thread.join(10)
        assert order[0].startswith("Waiting for another process, which does the report of")
        assert order[1:] == ["first", "second"]


def test_processes_with_other_settings_cannot_share_a_run(run: RunDirectory) -> None:
    with several(run, 3) as (one, other, third):
        one.member.divide("a")
        other.member.divide("a")
        with pytest.raises(RunDirectoryError, match="runs other settings"):
            third.member.divide("b")


@pytest.mark.usefixtures("any_file_system")
def test_a_command_that_wants_the_run_alone_is_refused_while_others_share_it(run: RunDirectory) -> None:
    with shared(run), shared(run):
        with (
            pytest.raises(RunDirectoryError, match=f"share this directory .*pid {os.getpid()} and 1 more") as raised,
            exclusive(run),
        ):
            pass
        assert "--shared" in str(raised.value)
    with exclusive(run):
        pass


@pytest.mark.usefixtures("any_file_system")
def test_a_command_that_would_share_the_run_is_refused_while_another_has_it_alone(run: RunDirectory) -> None:
    with exclusive(run):
        with pytest.raises(RunDirectoryError, match=f"another moe-ray process .*pid {os.getpid()}"), shared(run):
            pass
        assert member_records(run) == []
    with shared(run):
        pass


@pytest.mark.usefixtures("any_file_system")
def test_what_dead_processes_left_keeps_no_command_out(run: RunDirectory) -> None:
    write_record(run, ELSEWHERE, 7)
    with shared(run) as leases:
        create_lease(run.path / ".leases" / "work" / "part.0", ELSEWHERE)
        assert leases.take("other-part")
    with exclusive(run):
        assert member_records(run) == []
        assert list((run.path / ".leases" / "work").iterdir()) == []


def test_a_lease_that_leads_outside_is_neither_read_nor_written(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (run.path / ".leases").symlink_to(tmp_path / "precious")
    with pytest.raises(RunDirectoryError, match="leads out of the run directory"), shared(run):
        pass
    assert list((tmp_path / "precious").iterdir()) == []


def test_records_of_another_version_or_of_nonsense_are_no_processes(run: RunDirectory) -> None:
    folder = run.path / ".leases" / "members"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text('{"holder": {"owner": 1}, "beat": "x"}')
    assert member_records(run) == []
    with exclusive(run):
        assert socket.gethostname() in (run.path / ".lock").read_text()
