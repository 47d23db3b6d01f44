"""`moe-ray doctor`: what it prints, its exit codes, and what a failing run adds."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from moe_ray.cli.runs import advised
from moe_ray.clusters.doctor.checks import all_checks
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.config.load import load_experiment
from moe_ray.errors import RunFailedError
from tests.cli.experiments import experiment, rows
from tests.support.commands import Command


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch, short_folder: Path, tmp_path: Path) -> Path:
    """An environment without faults of its own; returns an experiment's file."""
    for name in [*os.environ]:
        if name.startswith(("RAY_", "SLURM_", "CUDA_", "HF_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(short_folder))
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    found = Machine.here
    monkeypatch.setattr(Machine, "here", lambda *args, **keys: replace(found(*args, **keys), found_clusters=lambda: ()))
    config = experiment()
    config["output"] = {"results_dir": str(tmp_path / "results")}
    (tmp_path / "rows.jsonl").write_text(rows())
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "experiment.yaml"


def test_all_is_well_in_one_line(moe_ray: Command, healthy: Path) -> None:
    for arguments in ((), (healthy,)):
        code, shown = moe_ray("doctor", *arguments)
        assert (code, shown.count("\n")) == (0, 1), shown
        assert shown.startswith(f"ready: {len(all_checks())} checks, ")


def test_a_failure_says_what_and_how_and_one_command(
    moe_ray: Command, healthy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, shown = moe_ray("doctor", healthy)
    assert code == 1
    assert "FAIL  ray-address: no Ray cluster answers at 127.0.0.1:1, which RAY_ADDRESS names\n" in shown
    assert "      $ unset RAY_ADDRESS\n" in shown
    assert shown.endswith("1 failure; moe-ray doctor --explain ID says why it matters\n")


def test_warnings_fail_only_when_strict(moe_ray: Command, healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_NAMESPACE", "old")
    assert moe_ray("doctor")[0] == 0
    assert moe_ray("doctor", "--strict")[0] == 1


def test_the_json_has_everything(moe_ray: Command, healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_NAMESPACE", "old")
    code, shown = moe_ray("doctor", "--json")
    report = json.loads(shown)
    assert (code, report["version"], report["failing_nodes"], report["hung"]) == (0, 1, [], [])
    ((group,),) = [report["groups"]]
    assert [one["check"] for one in group["findings"]] == ["ray-variables"]
    assert set(group["findings"][0]) == {"check", "severity", "what", "evidence", "command"}


def test_a_file_with_mistakes_is_a_failure_and_a_missing_one_is_a_usage_error(moe_ray: Command, healthy: Path) -> None:
    healthy.write_text("name: x\nmodles: {}\n")
    code, shown = moe_ray("doctor", healthy)
    assert (code, "FAIL  experiment: the experiment's file has mistakes" in shown) == (1, True)
    assert "did you mean models?" in shown
    code, shown = moe_ray("doctor", healthy.with_name("other.yaml"))
    assert (code, "no such file" in shown) == (2, True)


def test_no_nodes_to_look_at_is_a_usage_error(moe_ray: Command, healthy: Path) -> None:
    code, shown = moe_ray("doctor", "--nodes")
    assert (code, "there are no other nodes" in shown) == (2, True)


def test_a_check_is_explained(moe_ray: Command) -> None:
    code, shown = moe_ray("doctor", "--explain", "temp-length")
    assert (code, shown.startswith("temp-length (failure): The path of Ray's temporary folder is too long.\n")) == (
        0,
        True,
    )
    assert "43 bytes" in shown
    code, shown = moe_ray("doctor", "--explain", "temp-lenght")
    assert (code, "did you mean temp-length?" in shown) == (2, True)
    listed = moe_ray("doctor", "--explain", "all")[1].splitlines()
    assert len(listed) == len(all_checks())
    assert len(json.loads(moe_ray("doctor", "--explain", "all", "--json")[1])) == len(listed)


def test_a_check_that_hangs_is_named(moe_ray: Command, healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over, found = threading.Event(), Machine.here

    def hangs(_: int) -> tuple[int, int]:
        over.wait()
        return (65536, 65536)

    monkeypatch.setattr(Machine, "here", lambda *args, **keys: replace(found(*args, **keys), limit_of=hangs))
    code, shown = moe_ray("doctor", "--timeout", 2)
    over.set()
    assert code == 0
    assert "warn  open-files: this check did not end within 2 s" in shown


def test_a_run_that_fails_says_what_the_doctor_would_have_said(
    moe_ray: Command, healthy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (tmp_path / "rows.jsonl").unlink()
    code, shown = moe_ray("evaluate", healthy)
    assert code == 2
    assert f"moe-ray doctor {healthy} would have said:\nFAIL  ray-address: no Ray cluster answers" in shown
    assert shown.index("would have said") < shown.index("error: ")


def test_after_a_run_the_doctor_looks_at_the_environment_before_it(
    healthy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        # A run sets the token of the Ray that it starts, so the user can do nothing about it.
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
        raise RunFailedError("Ray does not answer any more")

    with pytest.raises(RunFailedError), advised(load_experiment(healthy)):
        fails()
    assert "RAY_AUTH_TOKEN" not in capsys.readouterr().err
    with pytest.raises(RunFailedError), advised(load_experiment(healthy)):
        fails()
    assert "warn  token-value: RAY_AUTH_TOKEN holds the token itself" in capsys.readouterr().err


def test_a_run_that_fails_for_what_it_says_itself_adds_nothing(
    moe_ray: Command, healthy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_NAMESPACE", "a warning does not count here")
    (tmp_path / "rows.jsonl").write_text("[")
    code, shown = moe_ray("evaluate", healthy)
    assert (code, "would have said" in shown) == (2, False)
