"""What a router starts from: a checkpoint, its architecture alone, or a description; and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.config.schema import RouterConfig
from moe_ray.errors import ConfigError, ModelError
from moe_ray.routing.transformer import TransformerClassifier
from moe_ray.routing.transformer import encoder as base
from moe_ray.routing.transformer.encoder import BaseModel, make_base
from tests.routing.queries import DOMAINS
from tests.routing.transformer.tiny import ARCHITECTURES, DISTILBERT, SHAPE, TRAIN
from tests.support.tiny_models import make_tiny_checkpoint

TEXTS = [text.text for text in TRAIN]


def made(**section: Any) -> BaseModel:
    torch.manual_seed(0)
    return make_base(RouterConfig.model_validate(section), DOMAINS, TEXTS)


def described(**architecture: Any) -> BaseModel:
    return made(architecture=architecture, training={"max_tokens": 64})


def encoder_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: part for name, part in model.state_dict().items() if name.startswith("distilbert.")}


def is_equal(one: Any, other: Any) -> bool:
    first, second = encoder_weights(one), encoder_weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_pretrained_encoder_keeps_its_weights_and_gets_a_new_head(
    router: TransformerClassifier, checkpoint: Path
) -> None:
    config = RouterConfig(base_model=str(checkpoint))
    found = make_base(config, ("one", "other"), TEXTS)
    before = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint)
    assert found.pretrained
    assert is_equal(found.model, before)
    assert found.model.config.id2label == {0: "one", 1: "other"}
    assert found.model.classifier.out_features == 2
    assert found.max_tokens == 64


def test_from_scratch_takes_architecture_and_tokenizer_without_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (directory / "model.safetensors").unlink()
    found = made(base_model=str(directory), from_scratch=True)
    before = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint)
    assert not found.pretrained
    assert not is_equal(found.model, before)
    assert found.model.config.dim == 32
    assert found.tokenizer.get_vocab() == transformers.AutoTokenizer.from_pretrained(checkpoint).get_vocab()


def test_half_precision_weights_are_trained_in_float32(checkpoint: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float16)
    directory = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    model.save_pretrained(directory)
    assert made(base_model=str(directory)).model.dtype == torch.float32


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_description_gets_the_tokenizers_vocabulary_and_padding(model_type: str) -> None:
    found = described(model_type=model_type, **ARCHITECTURES[model_type])
    assert found.model.config.vocab_size == len(found.tokenizer)
    assert found.model.config.pad_token_id == found.tokenizer.pad_token_id
    assert not found.pretrained


def test_a_described_vocabulary_size_bounds_what_is_learned() -> None:
    found = described(model_type="distilbert", vocab_size=90, **DISTILBERT)
    assert len(found.tokenizer) <= 90 == found.model.config.vocab_size


def test_a_description_may_name_a_folder_that_holds_a_tokenizer_alone(checkpoint: Path, tmp_path: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "words")
    assert not (tmp_path / "words" / "config.json").exists()
    found = made(
        architecture={"model_type": "bert", **SHAPE}, tokenizer=str(tmp_path / "words"), training={"max_tokens": 64}
    )
    assert found.tokenizer.get_vocab() == transformers.AutoTokenizer.from_pretrained(checkpoint).get_vocab()


def test_a_description_may_name_a_tokenizer(checkpoint: Path) -> None:
    architecture = {"model_type": "bert", **SHAPE}
    found = made(architecture=architecture, tokenizer=str(checkpoint), training={"max_tokens": 64})
    assert found.tokenizer.get_vocab() == transformers.AutoTokenizer.from_pretrained(checkpoint).get_vocab()


def test_a_tokenizer_without_padding_pads_with_a_token_it_has(tmp_path: Path) -> None:
    llama = make_tiny_checkpoint(tmp_path, "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(llama)
    architecture = {"model_type": "bert", **SHAPE}
    found = made(architecture=architecture, tokenizer=str(llama), training={"max_tokens": 64})
    assert found.tokenizer.pad_token_id == found.tokenizer.eos_token_id == found.model.config.pad_token_id


@pytest.mark.parametrize(
    ("model_type", "num_positions", "limit"), [("bert", 80, 80), ("roberta", 80, 79), ("distilbert", 1000, 256)]
)
def test_no_more_tokens_are_read_than_the_model_has_positions_for(
    model_type: str, num_positions: int, limit: int
) -> None:
    shape = {**ARCHITECTURES[model_type], "max_position_embeddings": num_positions}
    found = made(architecture={"model_type": model_type, **shape})
    tokens = found.tokenizer("dose " * 2000, truncation=True, return_tensors="pt")
    assert found.max_tokens == tokens["input_ids"].shape[1] == limit
    found.model(**tokens)  # it would raise with one position too few


def test_more_tokens_asked_for_than_the_model_can_read_are_refused() -> None:
    architecture = {"model_type": "roberta", **SHAPE, "max_position_embeddings": 80}
    with pytest.raises(ConfigError, match="128, but the model reads 79 tokens at most") as caught:
        made(architecture=architecture, training={"max_tokens": 128})
    assert caught.value.where == "router.training.max_tokens"


@pytest.mark.parametrize(
    ("architecture", "where", "what"),
    [
        ({}, "router.architecture.model_type", "model_type None is not an encoder"),
        ({"model_type": "distilbet"}, "router.architecture.model_type", "did you mean distilbert"),
        ({"model_type": "llama"}, "router.architecture.model_type", "'llama' is not an encoder"),
        ({"model_type": "bert", "hiden_size": 32}, "router.architecture.hiden_size", "did you mean hidden_size"),
        ({"model_type": "bert", "num_labels": 2}, "router.architecture.num_labels", "bert has no such key"),
        ({"model_type": "bert", "hidden_size": "wide"}, "router.architecture", "expected int, got str"),
        ({"model_type": "bert", "vocab_size": 3}, "router.architecture.vocab_size", "but the tokenizer has"),
        ({"model_type": "distilbert", "dim": 30, "n_heads": 4}, "router.architecture", "4 must divide"),
    ],
)
def test_a_wrong_description_is_refused_at_its_key(architecture: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        made(architecture=architecture)
    assert caught.value.where == where
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"architecture": {"model_type": "bert"}, "base_model": "./somewhere"}, "router.architecture"),
        ({"architecture": {"model_type": "bert"}, "from_scratch": True}, "router.architecture"),
        ({"base_model": "./somewhere", "tokenizer": "./elsewhere"}, "router.tokenizer"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(section: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**section)
    assert caught.value.where == where


def test_a_causal_language_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path, "llama")
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="llama is not an encoder") as caught:
        made(base_model=str(directory))
    assert caught.value.where == f"router.base_model: {directory}"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_local_base_that_lacks_a_file_is_refused(name: str, checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (directory / name).unlink()
    with pytest.raises(ModelError) as caught:
        made(base_model=str(directory))
    assert caught.value.where == f"router.base_model: {directory}"
    assert caught.value.remedy


def test_weights_that_do_not_fill_the_encoder_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    deeper = transformers.AutoConfig.from_pretrained(checkpoint, n_layers=3)
    deeper.save_pretrained(directory)
    with pytest.raises(ModelError, match=r"16 weights are missing from the checkpoint \(distilbert"):
        made(base_model=str(directory))


def test_a_hub_model_out_of_reach_is_refused_with_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        made(base_model="nobody/no-such-encoder", revision="main")
    assert caught.value.where == "router.base_model: nobody/no-such-encoder at revision main"
    assert "router.architecture" in str(caught.value.remedy)
