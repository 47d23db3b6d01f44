"""A fake Jobs API, an experiment to submit, and no waiting."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from moe_ray.clusters.ray_jobs import follow, submit
from tests.cli.experiments import experiment, rows
from tests.support.fake_jobs import FakeJobs, served_jobs


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJobs]:
    monkeypatch.setattr(follow.follow, "__kwdefaults__", {"poll_s": 0.01})
    monkeypatch.setattr(follow.final_state, "__kwdefaults__", {"poll_s": 0.01})
    monkeypatch.setattr(submit, "RETRY_S", 0.01)
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with served_jobs() as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment in its own folder, which is not the current one."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(rows(), encoding="utf-8")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment()), encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    return folder / "experiment.yaml"
