"""`moe-ray status`, `logs`, `stop` and `sync` of Ray jobs, with a fake Jobs API."""

import json
from pathlib import Path

import pytest

from moe_ray.clusters.ray_jobs.results import write_mark
from moe_ray.clusters.submission import read_submission, write_submission
from tests.support.commands import Command
from tests.support.fake_jobs import FakeJobs

RUN = Path("results/spoilt")


def submit(moe_ray: Command, jobs: FakeJobs, file: Path, *more: object) -> tuple[int, str]:
    return moe_ray("submit", file, "--address", jobs.url, "--results-dir", "/shared/results", *more)


def test_small_results_come_home_from_a_folder_that_both_machines_see(
    moe_ray: Command, jobs: FakeJobs, file: Path, tmp_path: Path
) -> None:
    there = tmp_path / "shared" / "spoilt"
    jobs.states = [{"status": "RUNNING"}, {"status": "RUNNING"}]
    options = ("submit", file, "--address", jobs.url, "--results-dir", there.parent)
    assert moe_ray(*options, "--detach")[0] == 0
    (there / "answers").mkdir(parents=True)
    (there / "answers" / "a.parquet").write_text("rows")
    (there / "summary.json").write_text("{}")
    code, shown = moe_ray("sync", RUN)
    assert code == 2
    assert "did not come through" in shown
    write_mark(there, read_submission(RUN).id)
    assert moe_ray("sync", RUN)[0] == 0
    assert (RUN / "answers/a.parquet").read_text() == "rows"
    assert read_submission(RUN).attempt == 1


def test_status_logs_and_stop_ask_the_cluster(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    jobs.states = [{"status": "RUNNING"}]
    submit(moe_ray, jobs, file, "--detach")
    assert moe_ray("status", RUN)[1].startswith("running\nray-job moe-ray-spoilt-")
    assert moe_ray("logs", RUN) == (0, "done\n")
    assert moe_ray("stop", RUN)[0] == 0
    assert json.loads(moe_ray("status", RUN, "--json")[1])["state"] == "stopped"
    assert moe_ray("logs", RUN, "--follow") == (0, "done\n")
    jobs.jobs.clear()
    assert moe_ray("status", RUN)[1].startswith("unknown: ")
    assert moe_ray("stop", RUN)[0] == 0


def test_a_run_directory_of_somebody_else_runs_no_command_of_its_choice(
    moe_ray: Command, jobs: FakeJobs, file: Path
) -> None:
    submit(moe_ray, jobs, file)
    record = read_submission(RUN)
    write_submission(RUN, record.model_copy(update={"details": {**record.details, "python": "bash -c x"}}))
    jobs.requests.clear()
    code, shown = moe_ray("sync", RUN)
    assert code == 2
    assert "is not the path of a Python" in shown
    assert jobs.requests == []


@pytest.mark.parametrize("answer", [{}, {"status": "PAUSED"}, {"status": 3}])
def test_an_answer_that_is_no_state_of_a_job_is_not_believed(
    moe_ray: Command, jobs: FakeJobs, file: Path, answer: dict[str, object]
) -> None:
    submit(moe_ray, jobs, file)
    next(iter(jobs.jobs.values())).states[:] = [answer]
    assert moe_ray("status", RUN)[1].startswith("unknown: ")


def test_a_cluster_that_is_gone_gives_unknown_not_an_error(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    submit(moe_ray, jobs, file)
    jobs.broken = ["/api"]
    code, shown = moe_ray("status", RUN)
    assert code == 0
    assert shown.startswith("unknown: ")
    code, shown = moe_ray("logs", RUN)
    assert code == 2
    assert "does not answer" in shown


def test_a_run_that_was_not_submitted_is_refused(moe_ray: Command, tmp_path: Path) -> None:
    for command in ("status", "logs", "stop", "sync"):
        code, shown = moe_ray(command, tmp_path)
        assert code == 2
        assert "was not submitted" in shown
