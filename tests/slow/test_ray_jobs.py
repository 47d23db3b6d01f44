"""`moe-ray submit` on a real Ray head with token authentication: tokens, exit codes, cuts, stops, resumes.

RAY_ADDRESS and its kin name a port where nothing listens, in every command: they must redirect nothing.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from moe_ray.clusters.ray_jobs.access import parse_address
from moe_ray.clusters.ray_jobs.client import JobsClient
from moe_ray.clusters.ray_jobs.results import all_files
from moe_ray.clusters.ray_jobs.transfer import fetch_by_jobs
from moe_ray.clusters.submission import read_submission
from moe_ray.store.mirror import Mirror
from moe_ray.store.run_directory import RunDirectory
from tests.cli.experiments import experiment
from tests.execution.commands import command, wait_until
from tests.support.ray_head import Head, ray_head, relay_to

pytestmark = pytest.mark.slow
NUM_EXAMPLES = 24
TIMEOUT_S = 180
ASTRAY = dict.fromkeys(("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with (
        tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ray_head(Path(folder)) as running,
    ):
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment whose data lies beside it: the cluster gets it with the package."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    rows = [{"id": f"t{i}", "question": f"Is {i} even?", "label": ("yes", "no")[i % 2]} for i in range(NUM_EXAMPLES)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = experiment()
    config["models"]["base"]["engine_settings"] = {"seconds_per_batch": 0.0}
    config["runtime"] = {"shard_size": 2, "batch_size": 2, "probe_examples": 0, "max_attempts": 1, "cpu_slots": 1}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "experiment.yaml"


@contextmanager
def submitting(
    head: Head, file: Path, results: str, *more: str, url: str = "", token: Path | None = None
) -> Iterator[Any]:
    """Start `moe-ray submit`; local run directories go beside the experiment."""
    local = file.parent / "home" / "results"
    options = ["--address", url or head.url, "--results-dir", results, "--set", f"output.results_dir={local}"]
    environment = {**head.environment, **ASTRAY, "RAY_AUTH_TOKEN_PATH": str(token or head.token_file)}
    with command("submit", str(file), *options, *more, environment=environment) as process:
        yield process


def submitted(head: Head, file: Path, results: str, *more: str, **options: Any) -> tuple[int, str]:
    with submitting(head, file, results, *more, **options) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out + err


def run_of(file: Path) -> Path:
    return file.parent / "home" / "results" / "spoilt"


def other(head: Head, *arguments: str) -> tuple[int, str]:
    """Run another command with the cluster's token."""
    environment = {**head.environment, **ASTRAY, "RAY_AUTH_TOKEN_PATH": str(head.token_file)}
    with command(*arguments, environment=environment) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out + err


def content(run: Path) -> list[dict[str, Any]]:
    columns = ["key", "model", "domain", "example_id", "messages", "settings", "text", "token_ids", "finish_reason"]
    rows: list[dict[str, Any]] = RunDirectory(run).answers_table(columns).sort_by("key").to_pylist()
    return rows


def test_the_right_token_runs_the_experiment_and_the_answers_are_those_of_this_machine(
    head: Head, file: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    code, shown = submitted(head, file, str(shared))
    assert code == 0, shown
    assert "succeeded, exit code 0" in shown
    run = run_of(file)
    assert (run / "report.html").is_file()
    assert json.loads((run / "summary.json").read_text())
    assert not (run / "answers").exists()
    assert head.token_file.read_text() not in shown + (run / "submission.json").read_text()
    assert other(head, "sync", str(run))[0] == 0
    code, shown = other(head, "status", str(run))
    assert shown.startswith("succeeded, exit code 0"), shown
    assert f"{NUM_EXAMPLES}" in other(head, "logs", str(run))[1]
    apart = tmp_path / "apart"
    with JobsClient(parse_address(head.url, insecure=False), token_file=head.token_file) as client:
        fetch_by_jobs(client, read_submission(run), apart, wanted=all_files, on_progress=lambda _path: None)
    assert content(apart) == content(run)
    here = tmp_path / "here"
    environment = {**head.environment, "RAY_AUTH_MODE": "disabled"}
    with command("evaluate", str(file), "--results-dir", str(here), environment=environment) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, out + err
    assert content(run) == content(here / "spoilt")
    assert len(content(run)) == NUM_EXAMPLES


def test_a_wrong_token_and_none_are_refused_in_words(head: Head, file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    code, shown = submitted(head, file, "/shared", token=wrong)
    assert code == 2
    assert "refuses the token (status 403)" in shown
    assert "0" * 64 not in shown
    environment = {**head.environment, **ASTRAY}
    options = ("--address", head.url, "--results-dir", "/shared")
    with command("submit", str(file), *options, environment=environment) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "asks for a token" in out + err
    assert "Traceback" not in shown + out + err


def test_a_mistake_that_the_job_finds_is_its_exit_code_two(head: Head, file: Path, tmp_path: Path) -> None:
    code, shown = submitted(head, file, str(tmp_path / "shared"), "--set", "domains.parity.data.source=/nowhere.jsonl")
    assert code == 2, shown
    assert "/nowhere.jsonl" in shown
    assert "failed, exit code 2" in shown


def test_a_connection_that_is_cut_in_the_middle_does_not_change_the_exit_code(
    head: Head, file: Path, tmp_path: Path
) -> None:
    """The model fails for good on one example, so that the run itself ends with 1."""
    faults = {"crash_on": ["t3"], "crash_times": 9, "fault_dir": str(tmp_path / "faults"), "seconds_per_batch": 0.3}
    change = f"models.base.engine_settings={json.dumps(faults)}"
    shared, port = tmp_path / "shared", urlsplit(head.url).port
    assert port is not None
    with relay_to(port) as relay:
        url = f"http://127.0.0.1:{relay.port}"
        with submitting(head, file, str(shared), "--set", change, url=url) as process:
            wait_until(lambda: list((shared / "spoilt" / "answers").glob("*.parquet")), process)
            relay.cut()
            lines = iter(process.stdout.readline, "")
            cut = next(line for line in lines if "does not answer" in line)
            relay.restore()
            out, err = process.communicate(timeout=TIMEOUT_S)
    assert "the job goes on" in cut
    assert process.returncode == 1, out + err
    assert "failed, exit code 1" in out


def stopped_in_the_middle(head: Head, file: Path, results: str, has_begun: Callable[[], object]) -> tuple[int, str]:
    slow = "models.base.engine_settings.seconds_per_batch=1"
    with submitting(head, file, results, "--set", slow, "--mirror-period", "1") as process:
        wait_until(has_begun, process)
        assert other(head, "stop", str(run_of(file)))[0] == 0
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out + err


def test_a_stopped_job_is_130_and_a_second_submit_resumes_from_the_mirror_and_computes_nothing_twice(
    head: Head, file: Path, tmp_path: Path
) -> None:
    store = f"file://{tmp_path / 'store'}"

    def has_begun() -> bool:
        manifest = Mirror(f"{store}/spoilt").manifest()
        return manifest is not None and any(path.startswith("answers/") for path in manifest.files)

    code, shown = stopped_in_the_middle(head, file, store, has_begun)
    assert code == 130, shown
    assert "stopped, exit code 130" in shown
    run = run_of(file)
    assert other(head, "status", str(run))[1].startswith("stopped, exit code 130")
    assert other(head, "sync", str(run))[0] == 0
    before = content(run)
    assert 0 < len(before) < NUM_EXAMPLES
    shutil.rmtree(head.home / ".cache" / "moe_ray")  # as on another head
    shutil.rmtree(run / "answers")

    code, shown = submitted(head, file, store)
    assert code == 0, shown
    assert read_submission(run).attempt == 2
    assert other(head, "sync", str(run))[0] == 0
    rows, sessions = content(run), RunDirectory(run).manifest().sessions
    assert len(rows) == len({row["key"] for row in rows}) == NUM_EXAMPLES
    assert sessions[-1].cells_done_before >= len(before)
    assert {row["key"] for row in before} <= {row["key"] for row in rows}
    answered = sum(record.num_answers for record in RunDirectory(run).telemetry())
    assert answered <= NUM_EXAMPLES
