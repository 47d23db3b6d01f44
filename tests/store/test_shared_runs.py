"""Several processes that share a run: what each computes, and what becomes of the work of a dead one."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from moe_ray.store.answers import CONTENT_COLUMNS
from moe_ray.store.run_directory import RunDirectory
from tests.support.sharing import NUM_SHARDS, SHARD_SIZE, all_shards, answer_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.prepare()
    return directory


@contextmanager
def process(
    run: RunDirectory, host: str, how: str = "flock", *, seconds: float = 0.05
) -> Iterator[subprocess.Popen[str]]:
    """A process on a machine of its own, as far as it knows, that shares `run`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    command = [sys.executable, "-m", "tests.support.sharing", str(run.path), host, how, str(seconds)]
    environment = {**kept, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def printed(process: subprocess.Popen[str]) -> list[str]:
    """What a process printed until its end, which must be a good one."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out.splitlines()


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> str:
    """Return the next line of a process that begins so."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith(beginning):
            return line.strip()
    raise AssertionError(f"the process ended without {beginning!r}")


def content(run: RunDirectory) -> list[dict[str, Any]]:
    """The content of all answers; fails where a cell is there twice."""
    table = run.answers_table(list(CONTENT_COLUMNS)).sort_by("key")
    assert len(set(table["key"].to_pylist())) == table.num_rows
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@pytest.fixture
def expected(tmp_path: Path) -> list[dict[str, Any]]:
    """The content of the answers of one process alone, and the bytes of its files."""
    alone = RunDirectory(tmp_path / "alone")
    alone.prepare()
    for shard in all_shards():
        alone.write_shard([answer_of(cell) for cell in shard.cells])
    return content(alone)


def committed(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("committed")]


@pytest.mark.parametrize("how", ["flock", "lease"])
def test_three_processes_compute_each_shard_once(run: RunDirectory, expected: list[dict[str, Any]], how: str) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(process(run, f"node{number}", how)) for number in range(3)]
        lines = [printed(worker) for worker in workers]
    assert Counter(line for of_one in lines for line in committed(of_one)).most_common(1)[0][1] == 1
    assert sum(len(committed(of_one)) for of_one in lines) == NUM_SHARDS
    assert content(run) == expected
    assert [path for path in (run.path / ".leases").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("how", ["flock", "lease"])
def test_what_a_killed_process_began_is_computed_by_the_others_and_nothing_twice(
    run: RunDirectory, expected: list[dict[str, Any]], how: str
) -> None:
    with process(run, "node1", how, seconds=30) as doomed:
        lost = wait_for_line(doomed, "started")
        with process(run, "node2", how) as second, ExitStack() as later:
            wait_for_line(second, "started")
            third = later.enter_context(process(run, "node3", how))
            doomed.send_signal(signal.SIGKILL)
            doomed.wait()
            lines = [*printed(second), *printed(third)]
    assert lost.replace("started", "committed") in lines
    # The first line of the second process was read before.
    assert len(committed(lines)) == len(set(committed(lines))) == NUM_SHARDS
    assert content(run) == expected


def test_a_run_of_which_all_processes_were_killed_is_resumed_at_once(
    run: RunDirectory, expected: list[dict[str, Any]]
) -> None:
    with process(run, "node1", seconds=30) as first, process(run, "node2", seconds=30) as second:
        started = {wait_for_line(first, "started"), wait_for_line(second, "started")}
        assert len(started) == 2
        for worker in (first, second):
            worker.send_signal(signal.SIGKILL)
    assert content(run) == []
    with process(run, "node3") as third:
        lines = printed(third)
    # No other process holds the lock, so the leases of the dead need not expire.
    assert {line for line in lines[:3] if line.startswith("started")} & started
    assert len(committed(lines)) == NUM_SHARDS
    assert content(run) == expected


def test_a_process_that_was_suspended_for_long_loses_its_shard_and_disturbs_nobody(
    run: RunDirectory, expected: list[dict[str, Any]]
) -> None:
    """The one thing that is computed twice: both have the same bytes, in a file of the same name."""
    with process(run, "node1", seconds=0.5) as slow:
        started = wait_for_line(slow, "started")
        slow.send_signal(signal.SIGSTOP)
        with process(run, "node2") as other:
            lines = printed(other)
        assert started.replace("started", "committed") in lines
        assert len(committed(lines)) == NUM_SHARDS
        slow.send_signal(signal.SIGCONT)
        assert committed(printed(slow)) == [started.replace("started", "committed")]
    assert content(run) == expected


def test_a_process_that_starts_late_has_nothing_to_do(run: RunDirectory) -> None:
    with process(run, "node1") as first:
        assert len(committed(printed(first))) == NUM_SHARDS
    with process(run, "node2") as late:
        assert printed(late) == []


def test_shards_that_were_cut_differently_are_leased_under_one_name(
    run: RunDirectory, expected: list[dict[str, Any]]
) -> None:
    """One process began when nothing was there, one when parts of shards were."""
    with process(run, "node1", seconds=0.2) as first:
        wait_for_line(first, "started")
        for shard in all_shards()[2::3]:
            run.write_shard([answer_of(shard.cells[0])])
        with process(run, "node2", seconds=0.2) as second:
            lines = [*printed(first), *printed(second)]
    assert len(lines) >= NUM_SHARDS
    assert content(run) == expected
    assert len(expected) == NUM_SHARDS * SHARD_SIZE


def test_processes_that_start_at_the_same_moment_prepare_one_directory(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(run.prepare) for _ in range(200)]:
            done.result()
