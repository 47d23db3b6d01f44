"""The dense models that both sides turn into mixtures: random numbers, written tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from moe_ray.checkpoints.tensors import TensorWriter
from moe_ray.files import write_directory_atomically
from moe_ray.microworld.data import build_tokenizer, load_tokenizer
from moe_ray.moe.running import built_in_texts

FAMILIES = ("llama", "qwen2")
DTYPE = torch.bfloat16
STD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The sizes of a dense model."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int


FULL = Size(hidden=1536, inner=4096, layers=18, heads=12, key_value_heads=4, vocabulary=32000)
SMALL = Size(hidden=512, inner=1408, layers=8, heads=8, key_value_heads=2, vocabulary=8000)


def make_dense(folder: Path, family: str, size: Size) -> int:
    """Write a dense model of `family` to `folder`, and return the number of its parameters."""
    config = AutoConfig.for_model(family, **_fields(size), tie_word_embeddings=False, dtype=DTYPE)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def write(directory: Path) -> None:
        _write_weights(directory, shapes)
        config.save_pretrained(directory)
        file = directory / "tokenizer.json"
        build_tokenizer(built_in_texts().texts, file)
        load_tokenizer(file).save_pretrained(directory)

    write_directory_atomically(folder, write)
    return sum(tensor.numel() for tensor in model.state_dict().values())


def _fields(size: Size) -> Mapping[str, Any]:
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def _write_weights(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    writer = TensorWriter(directory)
    try:
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator) * STD
            writer.add(name, (values + 1 if "norm" in name else values).to(DTYPE))
        writer.finish()
    finally:
        writer.close()
