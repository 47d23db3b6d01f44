"""What is decided between the experiment file and the run."""

import json
from pathlib import Path

import pytest

from moe_ray.checkpoints.identity import Checkpoint, ModelIdentity
from moe_ray.config.schema import DomainConfig, ExperimentConfig, ModelConfig
from moe_ray.errors import DataError
from moe_ray.runs.manifest import begin
from moe_ray.runs.work import pinned, prepare
from tests.execution.experiments import scripted, write_experiment

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def checkpoint(name: str, revision: str | None) -> Checkpoint:
    identity = ModelIdentity(name=name, fingerprint="f", prompt_style="chat")
    return Checkpoint(
        name=name,
        identity=identity,
        config=None,
        num_parameters=None,
        size_source="unknown",
        revision=revision,
        files_sha256={},
    )


def test_a_hub_model_is_loaded_at_the_commit_that_was_inspected_though_its_branch_moves() -> None:
    models = {
        "hub": ModelConfig(path="org/model", revision="main"),
        "folder": ModelConfig(path="./model"),
        "served": ModelConfig(path="org/model", engine="server", engine_settings={"command": "serve --port {port}"}),
    }
    domain = DomainConfig.model_validate({"task": "mbpp", "data": {"source": "./tasks.jsonl"}})
    config = ExperimentConfig(name="pins", models=models, baseline="hub", domains={"code": domain})
    commits = {"hub": COMMIT, "folder": None, "served": COMMIT}
    found = pinned(config, {name: checkpoint(name, commit) for name, commit in commits.items()})
    assert {name: model.revision for name, model in found.models.items()} == {
        "hub": COMMIT,
        "folder": None,
        "served": None,  # its command says what it loads
    }
    assert found.model_copy(update={"models": models}) == config


VACUOUS = {"id": "1", "question": "Add one.", "reference": "def f(x): return x + 1", "tests": ["f(1)"]}


def test_tests_that_pass_a_wrong_program_are_refused_before_any_model_works(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(json.dumps(VACUOUS))
    experiment = write_experiment(
        tmp_path,
        {"m": scripted()},
        domains={"programs": {"task": "code", "data": {"source": "./tasks.jsonl"}}},
        runtime={"sandbox": {"allow_weak": True}},
    )
    prepared = prepare(experiment)
    with pytest.raises(DataError, match="the tests of 1 of 1 examples assert nothing") as caught:
        begin(prepared)
    assert "experiment.yaml" in (caught.value.where or "")
    assert not prepared.run.exists
