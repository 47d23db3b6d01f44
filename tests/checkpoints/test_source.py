"""Checkpoints are taken when all tensors of their class are there, and as fine-tunes when they are of one base."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_ray.checkpoints.source import compare_sources, open_source, source_record
from moe_ray.errors import ModelError
from moe_ray.fingerprint import file_sha256
from tests.moe.dense import make_dense

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def dense_dir(tmp_path: Path) -> Path:
    return make_dense(tmp_path / "dense", "llama")


def change(directory: Path, **tensors: torch.Tensor | None) -> None:
    """Rewrite the weights with some tensors replaced, or taken away."""
    file = directory / "model.safetensors"
    kept = {**load_file(file), **tensors}
    save_file({name: one for name, one in kept.items() if one is not None}, file, metadata={"format": "pt"})


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_whole_checkpoint_is_opened_and_recorded(dense_dir: Path) -> None:
    source = open_source(dense_dir)
    record = source_record(source)
    assert (source.name, record.model_type) == ("dense", "llama")
    assert record.files_sha256["model.safetensors"] == file_sha256(dense_dir / "model.safetensors")


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({UP: None}, f"lacks {UP}"),
        ({"extra.weight": torch.ones(2)}, "extra.weight"),
        ({UP: torch.ones(3, 48)}, r"\(3, 48\)"),
        ({UP: torch.ones(40, 48, dtype=torch.int8)}, "quantised"),
        ({UP: torch.ones(40, 48).to(torch.float8_e4m3fn)}, "quantised"),
    ],
)
def test_a_checkpoint_that_is_not_its_class_is_refused(tensors: Any, named: str, dense_dir: Path) -> None:
    change(dense_dir, **tensors)
    with pytest.raises(ModelError, match=named):
        open_source(dense_dir)


def test_old_checkpoints_tables_of_rotations_are_no_stranger(dense_dir: Path) -> None:
    change(dense_dir, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)})
    open_source(dense_dir)


def test_the_output_embedding_of_tied_models_need_not_be_there(tmp_path: Path) -> None:
    make_dense(tmp_path, "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in open_source(tmp_path).reader.names()
    change_config(tmp_path, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "its own code"),
        ({"model_type": "nobody_knows"}, "unreadable"),
    ],
)
def test_what_cannot_be_read_plainly_is_refused(fields: Any, named: str, dense_dir: Path) -> None:
    change_config(dense_dir, **fields)
    with pytest.raises(ModelError, match=named):
        open_source(dense_dir)


def test_a_folder_without_configuration_or_with_pickled_weights_is_refused(dense_dir: Path) -> None:
    (dense_dir / "model.safetensors").rename(dense_dir / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \.safetensors weights"):
        open_source(dense_dir)
    (dense_dir / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        open_source(dense_dir)


@pytest.fixture
def pair(dense_dir: Path, tmp_path: Path) -> tuple[Path, Path]:
    return dense_dir, make_dense(tmp_path / "tuned", "llama")


def test_differences_are_named_and_measured_outside_what_may_differ(pair: tuple[Path, Path]) -> None:
    base, tuned = map(open_source, pair)
    assert compare_sources(base, tuned, lambda name: False) == ()
    moved = tuned.reader.get(NORM).clone()
    moved[3] += 0.25
    change(pair[1], **{NORM: moved, UP: torch.zeros(40, 48)})
    (found,) = compare_sources(base, open_source(pair[1]), lambda name: name == UP)
    assert (found.source, found.tensor) == ("tuned", NORM)
    assert found.max_abs == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"intermediate_size": 44}, "intermediate_size"),
        ({"vocab_size": 99}, "vocab_size"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "rope_parameters"),
        ({"dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_models_of_other_shape_vocabulary_or_type_are_no_fine_tunes(fields: Any, named: str, tmp_path: Path) -> None:
    base = open_source(make_dense(tmp_path / "base", "llama"))
    other = open_source(make_dense(tmp_path / "other", "llama", **fields))
    with pytest.raises(ModelError, match=named):
        compare_sources(base, other, lambda name: True)


def test_another_tokenizer_is_refused_and_another_padding_is_not(pair: tuple[Path, Path]) -> None:
    base, tuned = map(open_source, pair)
    for directory, padding in zip(pair, (None, {"length": 8}), strict=True):
        content = {"padding": padding, "model": {"vocab": {"a": 0, "b": 1}}}
        (directory / "tokenizer.json").write_text(json.dumps(content))
    assert compare_sources(base, tuned, lambda name: True) == ()
    (pair[1] / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0, "a": 1}}, "padding": None}))
    with pytest.raises(ModelError, match=r"tokenizer\.json differ"):
        compare_sources(base, tuned, lambda name: True)
    (pair[1] / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        compare_sources(base, tuned, lambda name: True)
