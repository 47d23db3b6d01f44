"""Loading: dtypes, memory, and checkpoints that are none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from moe_ray.architectures.shapes import cache_bytes_per_token
from moe_ray.engines.transformers.loading import context_length, shape_of
from moe_ray.errors import ConfigError, ModelError
from tests.engines.asking import ask, engine
from tests.support.tiny_models import Architecture, make_tokenizer

Checkpoints = Callable[[Architecture], Path]
Damage = Callable[[Path], None]


def _truncate_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _scramble_weights(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\xff" * 4096)


def _drop_weights(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1" not in name}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})


def _resize_weights(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(
        {**tensors, name: tensors[name][:8].contiguous()}, directory / "model.safetensors", metadata={"format": "pt"}
    )


def _remove_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _change_config(directory: Path, **values: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _unknown_architecture(directory: Path) -> None:
    _change_config(directory, model_type="hal9000", architectures=["Hal9000"])


def _not_causal(directory: Path) -> None:
    _change_config(directory, model_type="vit", architectures=["ViTModel"])


def _broken_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def _remove_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def _remove_tokenizer(directory: Path) -> None:
    for path in (*directory.glob("tokenizer*"), *directory.glob("chat_template*"), *directory.glob("special*")):
        path.unlink()


def _broken_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate_weights, "Safetensor"),
        (_scramble_weights, "Safetensor"),
        (_drop_weights, "weights are missing"),
        (_resize_weights, "model.layers.0.mlp.up_proj.weight"),
        (_remove_weights, "model.safetensors"),
        (_unknown_architecture, "hal9000"),
        (_not_causal, "cannot be loaded"),
        (_broken_config, "config.json"),
        (_remove_config, "config.json is missing"),
        (_remove_tokenizer, "no usable tokenizer"),
        (_broken_tokenizer, "no usable tokenizer"),
        (shutil.rmtree, "no such directory"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_its_name_and_a_remedy(
    damage: Damage, words: str, checkpoint: Checkpoints, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), directory)
    damage(directory)
    with pytest.raises(ModelError) as caught:
        engine(directory)
    assert words in caught.value.what
    assert "\n" not in caught.value.what
    assert str(directory) in (caught.value.where or "")
    assert caught.value.remedy


def test_what_went_wrong_underneath_is_kept(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), directory)
    _truncate_weights(directory)
    with pytest.raises(ModelError) as caught:
        engine(directory)
    assert "Safetensor" in type(caught.value.__cause__).__name__


def test_a_chat_model_without_a_template_names_the_completion_style(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), directory, ignore=shutil.ignore_patterns("chat_template*"))
    make_tokenizer(chat_template=None).save_pretrained(directory)
    with pytest.raises(ModelError, match="no chat template") as caught:
        engine(directory, prompt_style="chat")
    assert "prompt_style: completion" in (caught.value.remedy or "")
    engine(directory)


def test_quantisation_without_its_library_names_what_to_install(
    checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match="bitsandbytes") as caught:
        engine(checkpoint("llama"), quantization="4bit")
    assert "moe_ray[quantization]" in (caught.value.remedy or "")


def test_an_unknown_setting_is_refused(checkpoint: Checkpoints) -> None:
    with pytest.raises(ConfigError, match="no such setting"):
        engine(checkpoint("llama"), engine_settings={"atention": "sdpa"})


def test_another_tokenizer_can_be_named(checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), directory)
    _remove_tokenizer(directory)
    answer = engine(directory, tokenizer=str(checkpoint("llama"))).generate([ask("the law")])[0]
    assert answer.text == engine(checkpoint("llama")).generate([ask("the law")])[0].text


@pytest.mark.parametrize(
    ("saved", "asked", "loaded"),
    [
        ("float32", "auto", torch.float32),
        ("bfloat16", "auto", torch.bfloat16),
        ("float16", "auto", torch.float32),
        ("float16", "float16", torch.float16),
        ("float32", "bfloat16", torch.bfloat16),
    ],
)
def test_the_dtype_on_the_cpu(
    saved: str, asked: str, loaded: torch.dtype, checkpoint: Checkpoints, tmp_path: Path
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=getattr(torch, saved))
    model.save_pretrained(tmp_path)
    made = engine(tmp_path, dtype=asked, tokenizer=str(checkpoint("llama")), gpus=0)
    assert made._loaded.model.dtype == loaded
    assert made.generate([ask("the law", num=3)])[0].error is None


def test_memory_is_that_of_the_weights_and_buffers(checkpoint: Checkpoints) -> None:
    made = engine(checkpoint("llama"), gpus=0)
    tensors = [*made._loaded.model.parameters(), *made._loaded.model.buffers()]
    memory = made.memory()
    assert memory.weights_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert (memory.device, memory.peak_torch_bytes, memory.reserved_torch_bytes) == ("cpu", None, None)
    made.close()


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gpt2", "gemma2"])
def test_cache_bytes_are_those_of_a_real_cache(architecture: Architecture, checkpoint: Checkpoints) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(architecture))
    cache = model(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    num_bytes = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert cache_bytes_per_token(shape_of(model.config), "auto") * 3 == num_bytes
    assert cache_bytes_per_token(shape_of(model.config), "bfloat16") * 6 == num_bytes
    assert context_length(model.config) == 128
