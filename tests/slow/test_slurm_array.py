"""An array of jobs that share a run, on a real SLURM: one is cancelled, and the others finish with the same bytes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from moe_ray.store.run_directory import RunDirectory
from tests.support.slurm_jobs import Job, answers, answers_without_slurm, left_on, submit, write_scripted
from tests.support.slurm_lab import SlurmLab, wait_until

pytestmark = pytest.mark.slow

NUM_JOBS = 3
# All GPUs of a node, so that each job has a node of its own.
OPTIONS = ("--array", NUM_JOBS, "--gpus-per-node", 4, "--time", 15, "--cpus-per-node", 2, "--memory-per-node", "3G")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The answers of a run on this machine, without SLURM."""
    folder = tmp_path_factory.mktemp("laptop")
    return answers_without_slurm(write_scripted(folder, num_examples=60), folder / "results")


def num_sessions_with_answers(job: Job) -> int:
    """The number of jobs of the array that have stored answers."""
    records = [record for record in RunDirectory(job.run).telemetry() if record.num_answers]
    return len({record.session for record in records})


def test_of_three_jobs_on_three_nodes_one_is_cancelled_and_the_others_finish(
    lab: SlurmLab, expected: list[dict[str, Any]]
) -> None:
    folder = lab.shared / "array"
    experiment = write_scripted(folder, num_examples=60, seconds_per_batch=4.0)
    job = submit(lab, experiment, folder / "results", *OPTIONS)
    elements = [Job(lab, job.run, f"{job.id}_{number}") for number in range(1, NUM_JOBS + 1)]
    wait_until(lambda: num_sessions_with_answers(job) == NUM_JOBS, "all jobs store answers", 300)
    assert len({element.field("BatchHost") for element in elements}) == NUM_JOBS
    lab.on("ctl", "scancel", elements[1].id)
    assert "running: 3 jobs: " in lab.moe_ray("status", job.run).stdout
    alone = lab.moe_ray("evaluate", experiment, "--results-dir", folder / "results", check=False)
    assert alone.returncode == 2
    assert "processes that share this directory (node" in alone.stderr
    elements[1].wait("CANCELLED")
    for element in (elements[0], elements[2]):
        element.wait()
    assert answers(job) == expected
    assert Counter(one.status for one in RunDirectory(job.run).manifest().sessions) == {"complete": 2, "interrupted": 1}
    assert "succeeded, exit code 0: 3 jobs: 2 succeeded" in lab.moe_ray("status", job.run).stdout
    log = lab.moe_ray("logs", job.run).stdout
    assert log.count("Writing the report") == 1
    assert {"1", "2", "3"} <= {line.partition(": ")[0] for line in log.splitlines()}
    for node in lab.nodes:
        assert left_on(lab, node) == []
    assert not list(Path("/tmp").glob(f"mr-*-{job.id}_*"))
