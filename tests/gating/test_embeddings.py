"""Reading one tensor and the tokenizer of checkpoints, whole and damaged."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from moe_ray.errors import ModelError
from moe_ray.gating import embeddings as checkpoint
from moe_ray.gating.embeddings import InputEmbeddings, read_input_embeddings
from tests.support.tiny_models import Architecture, make_tiny_checkpoint

ARCHITECTURES: tuple[Architecture, ...] = ("llama", "gpt2", "qwen2", "phi3", "gemma3")


def read(directory: Path | str) -> InputEmbeddings:
    return read_input_embeddings(str(directory), None, where="router.base_model")


def refused(directory: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        read(directory)
    assert caught.value.where == "router.base_model"
    assert caught.value.remedy
    return caught.value.what


def whole_matrix(directory: Path) -> torch.Tensor:
    """The input embeddings as transformers has them once the whole model is loaded."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    matrix: torch.Tensor = model.get_input_embeddings().weight.detach()
    return matrix


def change_weights(directory: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_matrix_and_the_tokenizer_are_those_of_the_whole_model(tmp_path: Path, architecture: Architecture) -> None:
    make_tiny_checkpoint(tmp_path, architecture)
    found = read(tmp_path)
    assert torch.equal(found.matrix, whole_matrix(tmp_path))
    assert found.tokenizer.get_vocab() == transformers.AutoTokenizer.from_pretrained(tmp_path).get_vocab()


def test_the_checkpoints_own_dtype_is_kept(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, "llama")
    stored = load_file(tmp_path / "model.safetensors")
    change_weights(tmp_path, {name: tensor.bfloat16() for name, tensor in stored.items()})
    assert read(tmp_path).matrix.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("architecture", "stored_as"),
    [
        ("gpt2", "wte.weight"),
        ("gpt2", "lm_head.weight"),
        ("llama", "embed_tokens.weight"),
        ("llama", "language_model.model.embed_tokens.weight"),
    ],
)
def test_other_names_that_checkpoints_use_are_known(tmp_path: Path, architecture: Architecture, stored_as: str) -> None:
    matrix = whole_matrix(make_tiny_checkpoint(tmp_path, architecture))
    change_weights(tmp_path, {stored_as: matrix.contiguous(), "norm.weight": torch.ones(4)})
    assert torch.equal(read(tmp_path).matrix, matrix)


def sharded(directory: Path) -> Path:
    make_tiny_checkpoint(directory, "qwen2")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="20KB")
    return directory


def shard_of_embeddings(directory: Path) -> str:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    name: str = index["weight_map"]["model.embed_tokens.weight"]
    return name


def test_only_the_shard_that_holds_the_embeddings_is_read(tmp_path: Path) -> None:
    expected, kept = whole_matrix(sharded(tmp_path)), shard_of_embeddings(tmp_path)
    others = [path for path in tmp_path.glob("*.safetensors") if path.name != kept]
    assert others
    for at, path in enumerate(others):
        path.unlink() if at else path.write_bytes(b"damaged")
    assert torch.equal(read(tmp_path).matrix, expected)


def test_the_shard_of_the_embeddings_is_named_when_it_is_missing(tmp_path: Path) -> None:
    missing = shard_of_embeddings(sharded(tmp_path))
    (tmp_path / missing).unlink()
    assert missing in refused(tmp_path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_that_are_pickled_are_read_too(tmp_path: Path, is_zip: bool) -> None:
    expected = whole_matrix(make_tiny_checkpoint(tmp_path, "phi3"))
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    assert torch.equal(read(tmp_path).matrix, expected)


class Dangerous:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Dangerous()}, tmp_path / "pytorch_model.bin")
    assert "cannot be read" in refused(tmp_path)


def test_what_is_no_checkpoint_is_refused_with_its_reason(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, "llama")
    assert "no such directory" in refused(tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-40])
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "model.embed_tokens.weight" in refused(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer" in refused(tmp_path)
    (tmp_path / "config.json").unlink()
    assert "config.json is missing" in refused(tmp_path)


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, "llama")
    change_weights(tmp_path, {"model.embed_tokens.weight": torch.zeros(7, 32)})
    assert "[7, 32]" in refused(tmp_path)
    num_tokens = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    change_weights(tmp_path, {"model.embed_tokens.weight": torch.zeros(num_tokens, 32, dtype=torch.int8)})
    assert "int8" in refused(tmp_path)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    num_tokens = config["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    change_weights(tmp_path, {"model.embed_tokens.weight": torch.zeros(300, 32)})
    assert f"{num_tokens} tokens, and it has input embeddings for 300" in refused(tmp_path)


def test_a_model_that_writes_no_text_is_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, "llama")
    transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4).save_pretrained(tmp_path)
    assert "vit is not a causal model" in refused(tmp_path)


def test_a_hub_id_is_taken_from_the_hubs_cache_when_the_hub_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    made = make_tiny_checkpoint(tmp_path / "made", "llama")
    repository = tmp_path / "cache" / "models--owner--tiny"
    shutil.copytree(made, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert torch.equal(read("owner/tiny").matrix, whole_matrix(made))
    assert "owner/unknown" in refused("owner/unknown")
