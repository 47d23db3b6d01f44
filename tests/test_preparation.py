"""What is decided between the experiment file and the run."""

from moe_ray.config.schema import DomainConfig, ExperimentConfig, ModelConfig
from moe_ray.planning.cells import ModelIdentity
from moe_ray.planning.checkpoints import Checkpoint
from moe_ray.preparation import pinned

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
