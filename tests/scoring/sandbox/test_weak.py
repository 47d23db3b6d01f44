"""A machine that lacks a protection: the run says so before it starts, asks to be allowed, and writes it down."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from moe_ray.cli.main import app
from moe_ray.cli.terminal import EXIT_USAGE, reported
from moe_ray.config.load import load_experiment
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs import manifest
from moe_ray.runs.manifest import begin
from moe_ray.runs.stored import load_run
from moe_ray.runs.work import prepare
from moe_ray.scoring.code import CodeGrader
from moe_ray.scoring.sandbox import boxes, shared_sandbox
from moe_ray.scoring.sandbox import sandbox as sandbox_module
from moe_ray.scoring.sandbox.boxes import Box

pytestmark = pytest.mark.slow

TASK = {"task_id": 1, "text": "Add one.", "code": "def f(x): return x + 1", "test_list": ["assert f(1) == 2"]}


def _hide_all_but_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every kind of box but the weakest."""

    def candidates(memory_bytes: int) -> Iterator[Box]:
        return (box for box in boxes.candidates(memory_bytes) if box.backend == "limits")

    monkeypatch.setattr(sandbox_module, "candidates", candidates)


@pytest.fixture(autouse=True)
def _only_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have only the weakest box here; forget sandboxes that were opened with or without others."""
    _hide_all_but_limits(monkeypatch)
    shared_sandbox.cache_clear()
    yield
    shared_sandbox.cache_clear()


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "tasks.jsonl").write_text(json.dumps(TASK) + "\n")
    config = {
        "name": "weak",
        "models": {"base": {"path": "scripted/base", "engine": "scripted", "engine_settings": {"text": TASK["code"]}}},
        "baseline": "base",
        "domains": {"code": {"task": "mbpp", "data": {"source": "./tasks.jsonl"}, "graders": ["code"]}},
        "likelihood": False,
        "output": {"results_dir": str(tmp_path / "results")},
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_run_says_what_is_missing_before_it_starts(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["moe-ray", "evaluate", str(experiment)])
    assert reported(app) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "no protection of network, filesystem_writes, filesystem_reads, processes" in said
    assert "memory (shared memory, " in said
    assert "--allow-weak-sandbox" in said
    assert not list((experiment.parent / "results").rglob("manifest*"))


def test_a_run_that_accepts_it_has_it_in_its_manifest(experiment: Path) -> None:
    loaded = load_experiment(experiment, ["runtime.sandbox.allow_weak=true"])
    prepared = prepare(loaded)
    prepared.run.prepare()
    begin(prepared)
    sandbox = prepared.run.manifest().sandbox
    assert sandbox is not None
    assert sandbox["backend"] == "limits"
    assert {"network", "filesystem_reads", "processes", "memory"} <= set(sandbox["missing"])
    assert {"shared memory", "child processes"} <= set(sandbox["memory_gaps"])
    assert sandbox["control_group"] is False


def test_the_grader_of_a_run_uses_the_sandbox_that_its_beginning_opened(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_experiment(experiment, ["runtime.sandbox.allow_weak=true"])
    prepared = prepare(loaded)
    prepared.run.prepare()
    begin(prepared)
    monkeypatch.setattr(sandbox_module, "probe", None)
    stored = load_run(prepared.run, experiment=loaded)
    graders = stored.graders["code"]
    example = prepared.domains["code"].examples[0]
    assert [score.value for score in graders[0].grade(example, "base", [])] == [None, None]
    assert shared_sandbox(stored.config.runtime.sandbox).protections.backend == "limits"


def test_answers_that_a_stronger_machine_made_are_graded_here_only_when_that_is_accepted(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_experiment(experiment)
    monkeypatch.setattr(manifest, "sandbox_record", lambda *_: {"backend": "bubblewrap", "missing": []})
    monkeypatch.setattr(CodeGrader, "check_examples", lambda *_: None)
    prepared = prepare(loaded)
    prepared.run.prepare()
    begin(prepared)
    monkeypatch.undo()
    _hide_all_but_limits(monkeypatch)

    monkeypatch.setattr("sys.argv", ["moe-ray", "score", str(prepared.run.path)])
    assert reported(app) == EXIT_USAGE
    assert "--allow-weak-sandbox" in capsys.readouterr().err
    assert (prepared.run.manifest().sandbox or {})["backend"] == "bubblewrap"
    assert not prepared.run.scores_path.exists()

    pipeline.score(prepared.run, allow_weak_sandbox=True)
    assert (prepared.run.manifest().sandbox or {})["backend"] == "limits"
    assert prepared.run.scores_path.exists()
