"""Runs with served models on a real Ray: an endpoint that goes away and comes back, a server that dies."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from moe_ray.config.load import LoadedExperiment
from moe_ray.runs import evaluate as pipeline
from tests.engines.openai_api import Api, serving
from tests.execution.experiments import Recorder, content, write_experiment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

ROOT = Path(__file__).parents[2]
KEY = "sk-test-4711"


def experiment_with(folder: Path, engine: str, **settings: Any) -> LoadedExperiment:
    model = {"path": "tiny", "engine": engine, "engine_settings": settings}
    return write_experiment(folder, {"m": model}, runtime={"shard_size": 2, "max_attempts": 2})


def test_a_run_whose_endpoint_goes_away_stores_no_errors_and_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    with serving(Api(models=["scripted/m"], key=KEY)) as api:
        port = int(api.base_url.rpartition(":")[2].partition("/")[0])
        settings = {"base_url": api.base_url, "api_key_env": "TEST_API_KEY", "max_retries": 0}
        experiment = experiment_with(tmp_path, "endpoint", **settings)

        def revoke_access(num_shards: int) -> None:
            api.key = "another"

        outcome = pipeline.evaluate(experiment, Recorder(on_committed=revoke_access))
    rows = content(outcome.run)
    assert 0 < len(rows) < 8
    assert outcome.num_missing == 8 - len(rows)
    assert [row["error"] for row in rows] == [None] * len(rows)
    assert "authentication failed (401" in outcome.abandoned[-1].reason
    with serving(Api(models=["scripted/m"], key=KEY), port):
        outcome = pipeline.evaluate(experiment, Recorder())
    rows = content(outcome.run)
    assert (outcome.num_missing, outcome.abandoned, len(rows)) == (0, (), 8)
    assert all(row["token_ids"] is None and row["num_completion_tokens"] == 8 for row in rows)
    written = [path.read_bytes() for path in outcome.run.path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in written), "the key is written nowhere"


def kill_the_server_once(sign: str) -> Callable[[int], None]:
    """Return what an observer calls at each commit: the first time, the server whose command holds `sign` is killed."""

    def at_commit(num_shards: int) -> None:
        for process in processes_with(sign) if num_shards == 1 else ():
            if process.info["cmdline"][1:3] == ["-m", "tests.engines.tiny_server"]:
                process.kill()

    return at_commit


def processes_with(sign: str) -> list[psutil.Process]:
    """Return the processes whose command line holds `sign`."""
    return [one for one in psutil.process_iter(["cmdline"]) if sign in " ".join(one.info["cmdline"] or ())]


def test_a_server_that_dies_is_started_again_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    settings = {
        "command": f"{sys.executable} -m tests.engines.tiny_server --port {{port}} --model scripted/m --say {tmp_path}",
        "env": {"PYTHONPATH": str(ROOT)},
        "log_dir": str(tmp_path / "logs"),
    }
    observer = Recorder(on_committed=kill_the_server_once(str(tmp_path)))
    outcome = pipeline.evaluate(experiment_with(tmp_path, "server", **settings), observer)
    assert (outcome.num_missing, outcome.abandoned) == (0, ())
    assert len(content(outcome.run)) == 8
    assert observer.count("lost") == 1
    assert any("the server ended (exit status -9)" in detail for _, state, detail in observer.states if state == "lost")
    assert len(list((tmp_path / "logs").iterdir())) == 2
    telemetry = outcome.run.telemetry()
    assert {record.device for record in telemetry} == {"cpu"}
    assert all(record.weights_bytes is None and record.peak_resident_bytes for record in telemetry)
    assert not processes_with(str(tmp_path))
