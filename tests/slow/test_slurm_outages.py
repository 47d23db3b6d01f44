"""What a job of a real SLURM depends on fails for a while: the scheduler's answers, the network, a clock, the disk."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moe_ray.clusters.slurm.launcher import LAUNCHER
from moe_ray.clusters.submission import read_submission
from moe_ray.store.run_directory import RunDirectory
from tests.support.slurm_jobs import Job, answers, answers_without_slurm, left_on, submit, write_scripted
from tests.support.slurm_lab import NUM_GPUS, SlurmLab, wait_until

pytestmark = pytest.mark.slow

CPUS = ("--cpus-per-node", 2, "--memory-per-node", "3G")
PARTITION_S = 8.0
CLOCK_ERROR_S = 600
CLOCK = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + ({error_s})
time.time_ns = lambda: _time_ns() + ({error_s}) * 10**9
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The answers of a run on this machine, without SLURM."""
    folder = tmp_path_factory.mktemp("laptop")
    return answers_without_slurm(write_scripted(folder), folder / "results")


def nothing_is_left(lab: SlurmLab) -> bool:
    return not any(left_on(lab, node) for node in lab.nodes)


def is_running(job: Job) -> bool:
    state = job.written_state()
    return state is not None and state.phase == "running"


def test_status_logs_and_stop_work_while_squeue_prints_nothing_fails_or_hangs(lab: SlurmLab) -> None:
    folder = lab.shared / "squeue"
    commands = folder / "bin"
    commands.mkdir(parents=True)
    path = {"PATH": f"{commands}:{os.environ['PATH']}:/usr/sbin:/sbin"}

    def break_squeue(script: str) -> None:
        (commands / "squeue").write_text(f"#!/bin/bash\n{script}\n")
        (commands / "squeue").chmod(0o755)

    def moe_ray(command: str, job: Job) -> str:
        return lab.moe_ray(command, job.run, environment=path).stdout

    all_gpus = ("--nodes", 3, "--gpus-per-node", NUM_GPUS, *CPUS)
    runs = submit(lab, write_scripted(folder / "a", seconds_per_batch=300), folder / "runs", *all_gpus)
    wait_until(lambda: is_running(runs), f"the command runs\n{runs.log}", 300)
    waits = submit(lab, write_scripted(folder / "b"), folder / "waits", *all_gpus)
    for script in ("exit 0", "exit 1", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"):
        break_squeue(script)
        assert moe_ray("status", runs).startswith("running: running on 3 nodes; SLURM gave no answer")
        assert moe_ray("status", waits).startswith("unknown: SLURM gave no answer about the job")
        assert "3 nodes are ready" in moe_ray("logs", runs)
    break_squeue("sleep 1000")
    started = time.monotonic()
    assert moe_ray("status", waits).startswith("unknown: ")
    assert time.monotonic() - started < 60
    assert "is stopped" in moe_ray("stop", waits)
    assert "is stopped" in moe_ray("stop", runs)
    assert (waits.state, runs.state) == ("CANCELLED", "CANCELLED")
    assert nothing_is_left(lab)
    assert moe_ray("status", runs).startswith("stopped")


@pytest.mark.parametrize("node", ["node3", "node1"])
def test_a_partition_of_eight_seconds_changes_no_answer(
    lab: SlurmLab, expected: list[dict[str, Any]], node: str
) -> None:
    """node1 is the head of Ray, and runs the command."""
    folder = lab.shared / f"partition-{node}"
    experiment = write_scripted(folder, seconds_per_batch=1.5)
    job = submit(lab, experiment, folder / "results", "--nodes", 3, "--gpus-per-node", 1, *CPUS)
    job.wait_for_answers(4)
    assert job.field("BatchHost") == "node1"
    with lab.cut_off(node):
        time.sleep(PARTITION_S)
    job.wait()
    assert job.field("Restarts") == "0"
    assert answers(job) == expected
    assert nothing_is_left(lab)
    lab.wait_for_idle(3)


@pytest.mark.parametrize(("node", "error_s"), [("node1", -CLOCK_ERROR_S), ("node2", CLOCK_ERROR_S)])
def test_a_clock_that_is_ten_minutes_off_changes_no_answer(
    lab: SlurmLab, expected: list[dict[str, Any]], node: str, error_s: int
) -> None:
    """The clock of every Python process of the node: the agent, the command, Ray's agents and workers."""
    folder = lab.shared / f"clock-{node}"
    experiment = write_scripted(folder, seconds_per_batch=1.0)
    python = folder / "python"
    python.write_text(
        f'#!/bin/bash\n[ "$SLURMD_NODENAME" = {node} ] && export PYTHONPATH="{folder}/clock:$PYTHONPATH"\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    (folder / "clock").mkdir()
    (folder / "clock" / "sitecustomize.py").write_text(CLOCK.format(error_s=error_s))
    site = folder / "site.yaml"
    site.write_text(f"python: {python}\n")
    options = ("--nodes", 2, "--gpus-per-node", 1, "--time", 5, "--site", site)
    job = submit(lab, experiment, folder / "results", *options, *CPUS)
    job.wait_for_answers(1)
    assert LAUNCHER.status(job.run, read_submission(job.run)).state == "running"
    job.wait()
    assert answers(job) == expected
    finished_at = RunDirectory(job.run).answers_table(["finished_at"])["finished_at"].to_pylist()
    assert any(abs(moment - time.time()) > CLOCK_ERROR_S / 2 for moment in finished_at), "no clock was off"
    assert nothing_is_left(lab)


def test_a_full_disk_is_one_error_and_the_run_resumes_when_there_is_space(
    lab: SlurmLab, expected: list[dict[str, Any]]
) -> None:
    experiment = write_scripted(lab.shared / "full", seconds_per_batch=1.5)
    filler = lab.small / "filler"
    options = ("--nodes", 2, "--gpus-per-node", 1, *CPUS)
    job = submit(lab, experiment, lab.small / "results", *options)
    job.wait_for_answers(4)
    fill(filler)
    job.wait("FAILED")
    assert nothing_is_left(lab)
    assert job.field("Restarts") == "0"
    status = lab.moe_ray("status", job.run).stdout
    assert status.startswith("failed, exit code 2: the disk is full"), status + job.log
    assert "the disk is full" in job.log
    assert "Traceback" not in job.log
    num_kept = job.num_answers
    assert num_kept >= 4
    filler.unlink()
    again = submit(lab, experiment, lab.small / "results", *options)
    again.wait()
    assert answers(again) == expected


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size_bytes in (1 << 16, 1):
            try:
                while True:
                    file.write(b"x" * size_bytes)
            except OSError:
                continue
