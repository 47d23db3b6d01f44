"""Tiny fine-tunes of one base: copies of its checkpoint with other feed-forwards, and a gate for them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.files import write_json
from moe_ray.gating.fitting import save_gating
from moe_ray.moe.merge.gate import GATE_FILE, GateRecord
from moe_ray.moe.merge.gate_training import tensor_sha256
from tests.support.tiny_models import Architecture, make_tiny_checkpoint, make_tokenizer

EXPERTS = ("legal", "code")
EMBEDDINGS = {"gpt2": "transformer.wte.weight", "gpt_neo": "transformer.wte.weight"}

Change = Callable[[str, torch.Tensor], torch.Tensor]


def make_base(directory: Path, architecture: str) -> Path:
    """A random checkpoint; besides those of `make_tiny_checkpoint`, qwen3, gpt_neo, and llama with tied embeddings."""
    if architecture in ("llama", "mistral", "qwen2", "phi3", "gpt2"):
        kind: Architecture = architecture  # type: ignore[assignment]
        return make_tiny_checkpoint(directory, kind)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(_config(architecture, len(tokenizer)))
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _config(architecture: str, vocab_size: int) -> Any:
    ends = {"bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.5, "vocab_size": vocab_size}
    if architecture == "gpt_neo":
        return transformers.GPTNeoConfig(
            hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=8,
            max_position_embeddings=128, intermediate_size=48, **ends,
        )  # fmt: skip
    shape = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 12,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 2,
    }  # fmt: skip
    if architecture == "qwen3":
        return transformers.Qwen3Config(**shape, **ends, tie_word_embeddings=False)
    return transformers.LlamaConfig(**shape, **ends, tie_word_embeddings=True)


def change_tensors(directory: Path, change: Change) -> None:
    """Write the tensors of a checkpoint again."""
    path = directory / "model.safetensors"
    tensors = {name: change(name, tensor).contiguous() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def fine_tune(base: Path, directory: Path, seed: int) -> Path:
    """A copy of `base` with random feed-forwards."""
    shutil.copytree(base, directory)
    random = torch.Generator().manual_seed(seed)

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 0.3 * torch.randn(tensor.shape, generator=random) if ".mlp." in name else tensor

    change_tensors(directory, change)
    return directory


def make_gate(directory: Path, base: Path, architecture: str = "llama", experts: tuple[str, ...] = EXPERTS) -> Path:
    """A random gate that says it was trained on the embeddings of `base`."""
    matrix = load_file(base / "model.safetensors")[EMBEDDINGS.get(architecture, "model.embed_tokens.weight")]
    torch.manual_seed(0)
    network = GatingNetwork(matrix.shape[1], len(experts), hidden_sizes=(8,), dropout=0.1).eval()
    network.standardise(matrix)
    directory.mkdir()
    save_gating(network, directory)
    record = GateRecord(
        experts=list(experts),
        base_model=str(base),
        prompt_style="completion",
        max_tokens=64,
        embeddings_sha256=tensor_sha256(matrix),
    )
    write_json(directory / GATE_FILE, record)
    return directory


def make_all(folder: Path, architecture: str = "llama") -> tuple[dict[str, Path], Path]:
    """Two fine-tunes by expert's name, and a gate."""
    base = make_base(folder / "base", architecture)
    models = {expert: fine_tune(base, folder / expert, seed) for seed, expert in enumerate(EXPERTS, start=1)}
    return models, make_gate(folder / "gate", base, architecture)
