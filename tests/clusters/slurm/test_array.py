"""The jobs of an array that share a run: one status, one log."""

import os
from pathlib import Path

import pytest

from moe_ray.clusters.slurm.array import element_ids, status_of_all
from moe_ray.clusters.slurm.launcher import LAUNCHER
from moe_ray.clusters.slurm.life import LifeState, Phase, state_path
from moe_ray.clusters.submission import Submission, SubmissionState, SubmissionStatus
from moe_ray.errors import RunDirectoryError
from moe_ray.store.holder import this_process
from moe_ray.store.members import Member
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import scripted, write_experiment
from tests.support.commands import Command

SUBMISSION = Submission(
    kind="slurm", id="17", target="", command=("evaluate",), submitted_at="now", details={"array": "3"}
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory, and a folder of fake commands first on the path."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "run" / "slurm").mkdir(parents=True)
    squeue(tmp_path / "run", "exit 1")
    return tmp_path / "run"


def squeue(run: Path, script: str) -> None:
    path = run.parent / "bin" / "squeue"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def write_state(run: Path, element: int, phase: Phase, exit_code: int | None = None) -> None:
    job_id = f"17_{element}"
    state = LifeState(job_id=job_id, restart=0, phase=phase, exit_code=exit_code)
    state_path(run, job_id).write_text(state.model_dump_json())


CASES: list[tuple[list[SubmissionState], SubmissionState]] = [
    (["running", "pending", "pending"], "running"),
    (["failed", "pending", "stopped"], "pending"),
    (["succeeded", "failed", "unknown"], "succeeded"),
    (["failed", "unknown"], "unknown"),
    (["failed", "interrupted"], "interrupted"),
    (["stopped", "failed"], "failed"),
    (["stopped", "stopped"], "stopped"),
]


@pytest.mark.parametrize(("states", "expected"), CASES)
def test_an_array_is_what_its_most_lively_job_is(states: list[SubmissionState], expected: SubmissionState) -> None:
    found = status_of_all([SubmissionStatus(state) for state in states], "")
    assert found.state == expected
    assert found.reason.startswith(f"{len(states)} jobs: ")


def test_the_status_is_the_sum_of_all_jobs(run: Path) -> None:
    squeue(run, "echo '17_1|RUNNING|None|node1'; echo '17_2|RUNNING|None|node2'; echo '17_3|PENDING|Resources|'")
    write_state(run, 1, "running")
    members = [Member(RunDirectory(run), this_process()) for _ in range(2)]
    with members[0].joined(), members[1].joined():
        for member, num_done in zip(members, (40, 120), strict=True):
            member.report(num_done, 300)
            member.divide("work")
        status = LAUNCHER.status(run, SUBMISSION)
    assert status == ("running", "3 jobs: 2 running, 1 pending; 120 of 300 answers", None)


def test_without_an_answer_of_slurm_the_state_files_count(run: Path) -> None:
    assert LAUNCHER.status(run, SUBMISSION).state == "unknown"
    write_state(run, 2, "running")
    assert LAUNCHER.status(run, SUBMISSION).state == "running"
    write_state(run, 2, "ended", 0)
    assert LAUNCHER.status(run, SUBMISSION)[::2] == ("succeeded", 0)


def test_lines_of_the_log_name_their_job(run: Path) -> None:
    (run / "slurm" / "job-17_1.log").write_text("one\ntwo\n")
    (run / "slurm" / "job-17_3.log").write_text("three\nfour")
    assert list(LAUNCHER.logs(run, SUBMISSION, follow=False)) == ["1: one", "1: two", "3: three", "3: four"]


@pytest.mark.parametrize("number", ["-1", "x", "9" * 30])
def test_a_record_of_another_user_asks_for_no_endless_array(number: str) -> None:
    with pytest.raises(RunDirectoryError, match="is not a number of jobs"):
        element_ids(SUBMISSION.model_copy(update={"details": {"array": number}}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--array", "0"), "'--array': Input should be greater than or equal to 1"),
        (("--array", "-1"), "'--array': Input should be greater than or equal to 1"),
        (("--array", "two"), "'--array': Input should be a valid integer"),
        (("--array", "2", "--nodes", "3"), "--nodes: the jobs of an array have one node each, not 3"),
        (("--array", "2", "--chain", "3"), "--chain: an array and a chain cannot be combined"),
        (("--array", "10001"), "--array: 10001 jobs"),
    ],
)
def test_an_array_that_makes_no_sense_is_one_message(
    moe_ray: Command, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    experiment = write_experiment(tmp_path, {"m": scripted()}).path
    code, text = moe_ray("slurm", experiment, "--results-dir", tmp_path / "results", *options)
    assert code == 2
    assert words in " ".join(text.split())
    assert not (tmp_path / "results").exists()


def test_the_jobs_of_an_array_share_the_run(moe_ray: Command, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, {"m": scripted()}).path
    code, text = moe_ray("slurm", experiment, "--array", "2", "--dry-run")
    assert code == 0
    assert text.rstrip().endswith('cat "$life/exit_code" 2>/dev/null || echo 1)"')
    assert "--shared &" in text
    assert "--shared" not in moe_ray("slurm", experiment, "--dry-run")[1]


def test_the_jobs_of_an_array_share_no_other_command(moe_ray: Command, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, {"m": scripted()}).path
    code, text = moe_ray("slurm", "--array", "2", "--dry-run", "--", "evaluate", experiment, "--shared")
    assert (code, text.count("--shared")) == (0, 1)
    code, text = moe_ray("slurm", "--array", "2", "--dry-run", "--", "score", tmp_path)
    assert code == 2
    assert "--array: the jobs of an array cannot share the work of `score`" in text
