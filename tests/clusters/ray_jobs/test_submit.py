"""`moe-ray submit` and its companions with a fake Jobs API: what is sent, what is said, which code is returned."""

import shutil
from pathlib import Path

import pytest

from moe_ray.clusters.ray_jobs import follow, package
from moe_ray.clusters.submission import read_submission, write_submission
from tests.support.commands import Command
from tests.support.fake_jobs import FakeJobs

RUN = Path("results/spoilt")


def submit(moe_ray: Command, jobs: FakeJobs, file: Path, *more: object) -> tuple[int, str]:
    return moe_ray("submit", file, "--address", jobs.url, "--results-dir", "/shared/results", *more)


def test_the_package_holds_the_config_the_data_and_the_code(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    code, shown = submit(moe_ray, jobs, file, "--set", "decoding.max_new_tokens=7", "--only", "baseline")
    assert code == 0, shown
    assert {"experiment.yaml", "rows.jsonl", "moe_ray/entry.py"} <= set(jobs.files())
    assert not [name for name in jobs.files() if "__pycache__" in name or name.startswith("tests/")]
    sent = jobs.text("experiment.yaml")
    assert "source: ./rows.jsonl" in sent
    assert "max_new_tokens: 7" in sent
    assert "address: auto" in sent
    (job,) = jobs.jobs.values()
    assert job.body["entrypoint"].endswith("-- evaluate experiment.yaml --only=baseline")
    assert "Package: " in shown
    assert " files, " in shown


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0),
        ({"status": "FAILED", "driver_exit_code": 1}, 1),
        ({"status": "FAILED", "driver_exit_code": 2}, 2),
        ({"status": "FAILED", "driver_exit_code": 75}, 75),
        ({"status": "FAILED", "driver_exit_code": -9}, 137),
        ({"status": "FAILED", "driver_exit_code": None, "message": "no such package"}, 1),
        ({"status": "STOPPED"}, 130),
    ],
)
def test_the_exit_code_is_the_drivers_own(
    moe_ray: Command, jobs: FakeJobs, file: Path, state: dict[str, object], expected: int
) -> None:
    jobs.states = [{"status": "PENDING", "message": "no node yet"}, {"status": "RUNNING"}, state]
    code, shown = submit(moe_ray, jobs, file)
    assert code == expected, shown
    assert "waiting: no node yet" in shown
    assert "done" in shown
    assert str(state.get("message", "")) in shown


def test_a_python_that_is_not_there_is_said_with_its_option(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    jobs.states = [{"status": "FAILED", "driver_exit_code": 127}]
    code, shown = submit(moe_ray, jobs, file, "--python", "/opt/env/bin/python3.11")
    assert code == 127
    assert "--python /path/to/python" in shown
    (job,) = jobs.jobs.values()
    assert job.body["entrypoint"].startswith("/opt/env/bin/python3.11 -m moe_ray.")


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(
    moe_ray: Command, jobs: FakeJobs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    jobs.states = [{"status": "RUNNING"}]
    monkeypatch.setattr("moe_ray.cli.cluster.follow", interrupted)
    code, shown = submit(moe_ray, jobs, file)
    assert code == 130
    assert "moe-ray logs results/spoilt --follow" in shown
    assert ("POST", f"/api/jobs/{read_submission(RUN).id}/stop") not in jobs.requests


def test_a_log_that_cannot_be_read_does_not_end_the_job(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    jobs.states = [{"status": "RUNNING"}, {"status": "RUNNING"}, {"status": "FAILED", "driver_exit_code": 2}]
    jobs.broken = ["/logs"]
    code, shown = submit(moe_ray, jobs, file)
    assert code == 2
    assert "the log cannot be read now" in shown
    assert "the end of the log is lost" in shown


def test_a_cluster_that_is_silent_for_too_long_is_an_error_that_says_how_to_ask_again(
    moe_ray: Command, jobs: FakeJobs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PATIENCE_S", 0.05)
    jobs.broken = ["GET /api/jobs/"]
    code, shown = submit(moe_ray, jobs, file)
    assert code == 1
    assert "moe-ray status RUN" in shown


def test_a_job_whose_acceptance_was_not_heard_is_not_started_twice(
    moe_ray: Command, jobs: FakeJobs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moe_ray.clusters.ray_jobs.client import JobsClient, JobsUnreachableError

    accepted = JobsClient.submit

    def deaf(self: JobsClient, **job: object) -> None:
        accepted(self, **job)  # type: ignore[arg-type]
        raise JobsUnreachableError("timed out")

    monkeypatch.setattr(JobsClient, "submit", deaf)
    assert submit(moe_ray, jobs, file)[0] == 0
    assert len(jobs.jobs) == 1


def test_a_second_submit_is_the_next_attempt(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    submit(moe_ray, jobs, file)
    code, shown = submit(moe_ray, jobs, file)
    assert code == 0
    assert "already on the cluster" in shown
    assert [id.rsplit("-", 1)[1] for id in jobs.jobs] == ["1", "2"]
    assert len({id.rsplit("-", 1)[0] for id in jobs.jobs}) == 1
    assert read_submission(RUN).attempt == 2


def test_a_second_submit_is_refused_while_the_first_job_lives(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    jobs.states = [{"status": "RUNNING"}]
    assert submit(moe_ray, jobs, file, "--detach")[0] == 0
    code, shown = submit(moe_ray, jobs, file)
    assert code == 2
    assert "is running" in shown
    assert len(jobs.jobs) == 1


def test_a_job_of_the_same_run_from_another_machine_is_noticed(moe_ray: Command, jobs: FakeJobs, file: Path) -> None:
    jobs.states = [{"status": "RUNNING"}]
    submit(moe_ray, jobs, file, "--detach")
    (RUN / "submission.json").unlink()
    code, shown = submit(moe_ray, jobs, file)
    assert code == 2
    assert "submitted from elsewhere, is running" in shown
    for job in jobs.jobs.values():
        job.states[:] = [{"status": "STOPPED"}]
    jobs.states = [{"status": "SUCCEEDED", "driver_exit_code": 0}]
    (RUN / "submission.json").unlink()
    assert submit(moe_ray, jobs, file)[0] == 0
    assert read_submission(RUN).attempt == 2


def test_the_variables_of_ray_redirect_nothing(
    moe_ray: Command, jobs: FakeJobs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert submit(moe_ray, jobs, file)[0] == 0
    assert len(jobs.jobs) == 1


def test_a_token_is_sent_only_when_the_cluster_asks_for_one(
    moe_ray: Command, jobs: FakeJobs, file: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("right\n")
    token.chmod(0o600)
    assert submit(moe_ray, jobs, file, "--token-file", token)[0] == 0
    assert jobs.tokens_seen == []
    jobs.token = "right"
    code, shown = submit(moe_ray, jobs, file, "--token-file", token)
    assert code == 0
    assert "right" not in shown
    assert "right" not in (RUN / "submission.json").read_text()
    assert moe_ray("status", RUN)[1].startswith("succeeded, exit code 0")


def test_a_wrong_and_a_missing_token_end_before_anything_is_sent(
    moe_ray: Command, jobs: FakeJobs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.token = "right"
    code, shown = submit(moe_ray, jobs, file)
    assert code == 2
    assert "asks for a token" in shown
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-token")
    code, shown = submit(moe_ray, jobs, file)
    assert code == 2
    assert "refuses the token" in shown
    assert "RAY_AUTH_TOKEN" in shown
    assert "wrong-token" not in shown
    assert not jobs.packages
    assert not (RUN / "submission.json").exists()


def test_a_package_over_the_limit_names_the_five_largest_and_sends_nothing(
    moe_ray: Command, jobs: FakeJobs, file: Path
) -> None:
    weights = file.parent / "weights"
    weights.mkdir()
    for number in range(6):
        with (weights / f"part-{number}.bin").open("wb") as part:
            part.truncate((25 + number) << 20)
    code, shown = submit(moe_ray, jobs, file, "--include", weights)
    assert code == 2
    assert "the limit is 90.0 MiB" in shown
    assert [f"part-{number}.bin" in shown for number in range(6)] == [False, True, True, True, True, True]
    assert jobs.requests == []


def test_a_folder_that_the_nodes_share_is_not_sent(
    moe_ray: Command, jobs: FakeJobs, file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "shared" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    options = ("--set", f"models.base.path={model}", "--on-cluster", tmp_path / "shared")
    code, shown = submit(moe_ray, jobs, file, *options, "--dry-run")
    assert code == 0
    assert f"expected on the nodes: {model}" in shown
    assert "config.json" not in shown
    assert jobs.requests == []


def test_local_models_and_code_beside_the_experiment_are_sent(
    moe_ray: Command, jobs: FakeJobs, file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "elsewhere" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (file.parent / "my_graders.py").write_text("class Strict: ...\n")
    options = ("--set", f"models.base.path={model}", "--set", "domains.parity.graders=['my_graders:Strict']")
    assert submit(moe_ray, jobs, file, *options)[0] == 0
    assert "my_graders.py" in jobs.files()
    (config,) = (name for name in jobs.files() if name.endswith("/model/config.json"))
    assert f"path: ./{config.removesuffix('/config.json')}" in jobs.text("experiment.yaml")


def test_a_module_that_is_not_found_is_said_before_anything_is_sent(
    moe_ray: Command, jobs: FakeJobs, file: Path
) -> None:
    code, shown = submit(moe_ray, jobs, file, "--set", "domains.parity.graders=['no_such_module:Strict']")
    assert code == 2
    assert "no_such_module" in shown
    assert jobs.requests == []


@pytest.mark.parametrize("place", ["results", "nosuch://bucket/x"])
def test_a_place_for_results_that_cannot_be_one_is_refused(
    moe_ray: Command, jobs: FakeJobs, file: Path, place: str
) -> None:
    code, shown = moe_ray("submit", file, "--address", jobs.url, "--results-dir", place)
    assert code == 2
    assert "remedy" in shown
    assert jobs.requests == []


@pytest.mark.parametrize("program", ["bash -c x", "python -c x", "/bin/sh", "python;x", ""])
def test_only_a_python_runs_jobs(moe_ray: Command, jobs: FakeJobs, file: Path, program: str) -> None:
    code, shown = submit(moe_ray, jobs, file, "--python", program)
    assert code == 2
    assert "is not the path of a Python" in shown
    assert jobs.requests == []


def test_a_second_submit_to_the_address_of_the_record_needs_no_word_of_trust(
    moe_ray: Command, jobs: FakeJobs, file: Path, tmp_path: Path
) -> None:
    submit(moe_ray, jobs, file)
    shutil.rmtree(tmp_path / "home" / ".cache")
    assert submit(moe_ray, jobs, file)[0] == 0
    write_submission(RUN, read_submission(RUN).model_copy(update={"target": "https://ray.example.org"}))
    shutil.rmtree(tmp_path / "home" / ".cache")
    code, shown = submit(moe_ray, jobs, file)
    assert code == 2
    assert "https://ray.example.org" in shown


def test_the_same_files_make_the_same_package(file: Path) -> None:
    def packed() -> str:
        one = package.Package()
        one.add(file.parent, "folder")
        one.add_text("a", "b")
        return package.package_name(one.archive())

    assert packed() == packed()
