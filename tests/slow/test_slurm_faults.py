"""Faults under a job of a real SLURM: nodes that lose power or cannot start Ray, time limits, preemption."""

import sys
from typing import Any

import pytest

from moe_ray.clusters.slurm.deadline import seconds_of
from moe_ray.clusters.slurm.launcher import LAUNCHER
from moe_ray.clusters.submission import read_submission
from tests.support.slurm_jobs import Job, answers, answers_without_slurm, left_on, submit, write_scripted
from tests.support.slurm_lab import SlurmLab, wait_until

pytestmark = pytest.mark.slow

CPUS = ("--cpus-per-node", 2, "--memory-per-node", "3G")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The answers of a run on this machine, without SLURM."""
    folder = tmp_path_factory.mktemp("laptop")
    return answers_without_slurm(write_scripted(folder), folder / "results")


def release(job: Job) -> None:
    """Let a requeued job start now; SLURM would wait two minutes."""
    wait_until(lambda: job.state == "PENDING", f"the job is requeued\n{job.log}", 240)
    job.lab.on("ctl", "scontrol", "update", f"JobId={job.id}", "StartTime=now")


def test_a_node_that_loses_power_costs_its_shards_and_not_the_job(
    lab: SlurmLab, expected: list[dict[str, Any]]
) -> None:
    folder = lab.shared / "power"
    experiment = write_scripted(folder, seconds_per_batch=1.5)
    job = submit(lab, experiment, folder / "results", "--nodes", 3, "--gpus-per-node", 1, *CPUS)
    job.wait_for_answers(4)
    assert job.field("BatchHost") == "node1"
    lab.cut_power("node3")
    job.wait()
    assert job.field("Restarts") == "0"
    assert answers(job) == expected
    assert not any(left_on(lab, node) for node in ("node1", "node2"))
    lab.boot("node3")
    lab.wait_for_idle(3)


def test_a_node_whose_ray_does_not_start_ends_the_job_with_its_own_log_lines(lab: SlurmLab) -> None:
    folder = lab.shared / "broken"
    experiment = write_scripted(folder)
    fake = folder / "fake" / "ray" / "scripts"
    fake.mkdir(parents=True)
    (folder / "fake" / "ray" / "__init__.py").touch()
    (fake / "__init__.py").touch()
    (fake / "scripts.py").write_text("import sys\nsys.exit('planted: no plasma store today')\n")
    site = folder / "site.yaml"
    site.write_text(f"prefix: ['export PLANTED={folder}/fake']\npython: {folder}/python\n")
    python = folder / "python"
    python.write_text(
        '#!/bin/bash\n[ "$SLURMD_NODENAME" = node2 ] && export PYTHONPATH="$PLANTED:$PYTHONPATH"\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    job = submit(lab, experiment, folder / "results", "--nodes", 3, "--site", site, *CPUS)
    job.wait("FAILED")
    assert job.field("ExitCode") == "3:0"
    assert "node2: `ray start` ended before Ray was up" in job.log
    assert "planted: no plasma store today" in job.log
    assert not any(left_on(lab, node) for node in lab.nodes)


def run_out_of_time(job: Job) -> None:
    """Shorten the job's time limit, as an administrator may, so that about two minutes are left."""
    ran_s = seconds_of(job.field("RunTime")) or 0.0
    job.lab.on("ctl", "scontrol", "update", f"JobId={job.id}", f"TimeLimit={int(ran_s / 60) + 2}")


def test_a_job_that_reaches_its_time_limit_goes_on_in_further_lives(
    lab: SlurmLab, expected: list[dict[str, Any]]
) -> None:
    """Without slurmdbd. Each further life is released by hand; SLURM itself would wait two minutes before it."""
    folder = lab.shared / "limit"
    experiment = write_scripted(folder, seconds_per_batch=8.0)
    job = submit(lab, experiment, folder / "results", "--nodes", 2, "--time", 60, *CPUS)
    for _ in range(2):
        job.wait_for_answers(job.num_answers + 2)
        run_out_of_time(job)
        wait_until(lambda: job.state == "PENDING", f"the job is requeued\n{job.log}", 240)
        lab.on("ctl", "scontrol", "update", f"JobId={job.id}", "TimeLimit=60")
        release(job)
    job.wait()
    assert [life.end for life in job.lives] == ["interrupted", "interrupted", "finished"]
    assert [life.exit_code for life in job.lives] == [75, 75, 0]
    assert job.field("Restarts") == "2"
    assert answers(job) == expected


def test_a_life_that_adds_no_answer_ends_the_job(lab: SlurmLab) -> None:
    folder = lab.shared / "stuck"
    experiment = write_scripted(folder, seconds_per_batch=300)
    job = submit(lab, experiment, folder / "results", "--nodes", 1, "--time", 2, *CPUS)
    release(job)
    job.wait("FAILED")
    assert job.field("ExitCode") == "75:0"
    assert "nothing was added since the last life" in job.log
    assert len(job.lives) == 2


def test_a_preempted_job_saves_and_resumes(lab: SlurmLab, expected: list[dict[str, Any]]) -> None:
    folder = lab.shared / "preempted"
    experiment = write_scripted(folder, seconds_per_batch=1.5)
    job = submit(lab, experiment, folder / "results", "--nodes", 3, *CPUS)
    job.wait_for_answers(2)
    wrap = ("--wrap", "sleep 5", "--nodes=3", "--exclusive", "--partition=urgent", f"--output={folder}/urgent.log")
    urgent = lab.on("ctl", "sbatch", "--parsable", *wrap).stdout.strip()
    wait_until(lambda: Job(lab, job.run, urgent).state == "COMPLETED", "the urgent job ends", 120)
    release(job)
    job.wait()
    assert answers(job) == expected
    assert [life.restart for life in job.lives] == [0, 1]


def test_a_chain_resumes_without_requeue_and_its_last_jobs_end_at_once(
    lab: SlurmLab, expected: list[dict[str, Any]]
) -> None:
    folder = lab.shared / "chain"
    experiment = write_scripted(folder, seconds_per_batch=4.0)
    job = submit(lab, experiment, folder / "results", "--nodes", 1, "--time", 2, "--chain", 6, *CPUS)
    wait_until(lambda: lab.on("ctl", "squeue", "-h").stdout == "", f"the chain ends\n{job.log}", 600)
    *others, last = [life.end for life in job.lives]
    assert others
    assert set(others) == {"interrupted"}
    assert last == "finished"
    assert "the run is finished" in job.log
    assert answers(job) == expected
    assert LAUNCHER.status(job.run, read_submission(job.run)).state == "succeeded"


def test_a_head_that_loses_power_costs_a_life_and_not_the_run(lab: SlurmLab, expected: list[dict[str, Any]]) -> None:
    folder = lab.shared / "head"
    experiment = write_scripted(folder, seconds_per_batch=2.0)
    job = submit(lab, experiment, folder / "results", "--nodes", 2, *CPUS)
    job.wait_for_answers(2)
    lab.cut_power("node1")
    wait_until(lambda: job.state == "PENDING", "SLURM requeues the job", 240)
    lab.boot("node1")
    lab.wait_for_idle(3)
    release(job)
    job.wait()
    assert [life.end for life in job.lives] == [None, "finished"]
    assert answers(job) == expected
