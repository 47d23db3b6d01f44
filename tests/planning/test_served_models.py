"""Models that are served, elsewhere or by a server of the replica's: what the plan knows of them, what they take."""

from pathlib import Path
from typing import Any

import pytest

from moe_ray.checkpoints.identity import Checkpoint, FileHashes, inspect_checkpoint
from moe_ray.config.schema import ExperimentConfig, ModelConfig
from moe_ray.domains.example import Example
from moe_ray.errors import CapacityError, ModelError
from moe_ray.planning.fleet import Fleet, Node, simulated_fleet
from moe_ray.planning.plan import Placement, all_cells, place_models, plan_work, uses_of
from moe_ray.prompts.messages import Message, Prompt

ENDPOINT: dict[str, Any] = {
    "path": "owner/model-7b",
    "engine": "endpoint",
    "engine_settings": {"base_url": "http://h/v1"},
}
SERVER: dict[str, Any] = {"engine": "server", "engine_settings": {"command": "serve {path} --port {port}"}}


def inspected(folder: Path, model: dict[str, Any]) -> Checkpoint:
    return inspect_checkpoint("m", ModelConfig(**model), FileHashes(folder / "hashes"))


def placed(folder: Path, model: dict[str, Any], fleet: Fleet) -> Placement:
    config = ExperimentConfig.model_validate(
        {
            "name": "x",
            "models": {"m": model},
            "baseline": "m",
            "domains": {"d": {"task": "free_text", "data": {"source": "d.jsonl"}}},
        }
    )
    prompt = Prompt(messages=(Message(role="user", content="q"),), reference="r")
    example = Example(id="1", domain="d", prompts={"chat": prompt}, reference="r")
    checkpoint = inspected(folder, model)
    cells = all_cells(config, {"d": [example]}, {"m": checkpoint.identity}, {("d", "m")})
    uses = uses_of(config, plan_work(config, cells, ()))
    return place_models(config.models, uses, {"m": checkpoint}, fleet, config.runtime)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up on the hub, which can wait for minutes, fails the test."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", refuse)


@pytest.mark.parametrize("path", ["owner/model-7b", "/models/on/another/machine"])
def test_an_endpoints_model_is_looked_for_nowhere_and_its_size_is_unknown(tmp_path: Path, path: str) -> None:
    checkpoint = inspected(tmp_path, ENDPOINT | {"path": path})
    assert (checkpoint.num_parameters, checkpoint.size_source, checkpoint.config) == (None, "unknown", None)


def test_an_endpoints_model_is_known_by_its_name_and_its_address(tmp_path: Path) -> None:
    models = [
        ENDPOINT,
        ENDPOINT | {"path": "owner/other"},
        ENDPOINT | {"engine_settings": {"base_url": "http://other/v1"}},
    ]
    assert len({inspected(tmp_path, model).identity.fingerprint for model in models}) == 3


@pytest.mark.parametrize("gpus", ["auto", 0])
def test_an_endpoints_model_takes_a_cpu_slot_also_where_gpus_are(tmp_path: Path, gpus: object) -> None:
    placement = placed(tmp_path, ENDPOINT | {"gpus": gpus}, simulated_fleet("8x80GiB"))
    assert placement.demands["m"].gpus == 0
    assert (placement.estimates["m"].weights_bytes, placement.estimates["m"].cache_bytes) == (None, 0)
    without_cpus = Fleet((Node(id="n", name="n", num_cpus=0, cpu_slots=0, gpu_bytes=(1 << 36,)),))
    with pytest.raises(CapacityError, match="no CPU slot"):
        placed(tmp_path, ENDPOINT, without_cpus)


@pytest.mark.parametrize(
    ("gpus", "num_taken"), [("auto", 1.0), (0.5, 0.5), (2, 2.0)], ids=["a whole one", "as configured", "two"]
)
def test_a_server_has_a_gpu_to_itself_unless_it_is_set_to_share(tmp_path: Path, gpus: object, num_taken: float) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 10}')
    model = SERVER | {"path": str(tmp_path), "gpus": gpus}
    assert placed(tmp_path, model, simulated_fleet("4x80GiB")).demands["m"].gpus == num_taken


def test_a_servers_checkpoint_may_be_one_file_known_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF one")
    first = inspected(tmp_path, SERVER | {"path": str(file)})
    assert list(first.files_sha256) == ["model.gguf"]
    assert first.size_source == "unknown"
    file.write_bytes(b"GGUF other")
    assert inspected(tmp_path, SERVER | {"path": str(file)}).identity != first.identity
    with pytest.raises(ModelError, match="no such folder"):
        inspected(tmp_path, {"path": str(file)})
