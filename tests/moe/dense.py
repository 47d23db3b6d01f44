"""Tiny random dense checkpoints of every family, with the odd cases that mixtures have got wrong before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from moe_ray.moe.upcycle.convert import convert
from moe_ray.moe.upcycle.experts import Gates
from moe_ray.moe.upcycle.plan import UpcyclePlan, plan_upcycle
from moe_ray.moe.upcycle.request import UpcycleSettings

VOCABULARY_SIZE = 97
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
WINDOW = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A dense model (its type and what is odd in its configuration), the layers to convert, and the class to expect."""

    model_type: str
    target: str
    odd: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None


CASES = {
    "llama": Case(
        model_type="llama",
        target="mixtral",
        odd={"head_dim": 10, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
    ),
    "llama-partly": Case(
        model_type="llama", target="qwen2_moe", odd={"head_dim": 14, "rope_parameters": LLAMA3_ROPE}, layers=(1,)
    ),
    "mistral": Case(model_type="mistral", target="mixtral", odd={"sliding_window": WINDOW, "head_dim": 10}),
    "mistral-partly": Case(
        model_type="mistral",
        target="qwen2_moe",
        odd={"sliding_window": WINDOW, "tie_word_embeddings": True},
        layers=(0, 2),
    ),
    "qwen2": Case(
        model_type="qwen2",
        target="qwen2_moe",
        odd={"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen2-partly": Case(model_type="qwen2", target="qwen2_moe", odd={"rope_parameters": YARN_ROPE}, layers=(2,)),
    "qwen3": Case(
        model_type="qwen3",
        target="qwen3_moe",
        odd={"head_dim": 10, "attention_bias": True, "tie_word_embeddings": True, "rope_parameters": YARN_ROPE},
    ),
    "qwen3-partly": Case(
        model_type="qwen3",
        target="qwen3_moe",
        odd={"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0, "head_dim": 14},
        layers=(0, 1),
    ),
    "phi3": Case(model_type="phi3", target="mixtral", odd={"sliding_window": WINDOW, "num_key_value_heads": 1}),
    "phi3-partly": Case(model_type="phi3", target="qwen2_moe", odd={"tie_word_embeddings": True}, layers=(1,)),
    "granite": Case(
        model_type="granite",
        target="granitemoe",
        odd={
            "embedding_multiplier": 3.0,
            "logits_scaling": 0.7,
            "residual_multiplier": 0.6,
            "attention_multiplier": 0.4,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2": Case(model_type="olmo2", target="flex_olmo", odd={"attention_bias": True, "rope_parameters": LLAMA3_ROPE}),
}


def make_dense(directory: Path, model_type: str, *, seed: int = 0, dtype: str = "float32", **fields: Any) -> Path:
    """Save a random model; norms and biases are random too, so that a lost one is seen."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**SIZES, **fields})
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, float("norm" in name), 0.3)
    model.save_pretrained(directory)
    return directory


def load(directory: Path, **chosen: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, **chosen).eval()


def some_tokens() -> torch.Tensor:
    """Two texts of 24 tokens, longer than any window here and than the ropes' original length."""
    return torch.randint(2, VOCABULARY_SIZE, (2, 24), generator=torch.Generator().manual_seed(7))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(some_tokens()).logits
    return found


def upcycle(
    model_dir: Path,
    out_dir: Path,
    settings: UpcycleSettings,
    *,
    on_bytes: Callable[[int], object] = lambda _: None,
    gates: Gates | None = None,
) -> UpcyclePlan:
    """Plan and convert, without tests and certificate."""
    plan = plan_upcycle(model_dir, settings)
    convert(plan, out_dir, gates=gates, on_bytes=on_bytes)
    return plan
