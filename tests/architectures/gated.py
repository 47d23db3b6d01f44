"""Tiny fine-tunes of one random model that differ in their feed-forwards alone, and the mixture of them."""

import copy
from typing import Any

import torch
import transformers
from torch import nn

from moe_ray.architectures.gated_mixture import GatedMixtureConfig, GatedMixtureForCausalLM

VOCABULARY_SIZE = 50
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GPT_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "num_layers": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SHAPE, head_dim=6),
    "mistral": transformers.MistralConfig(**SHAPE, sliding_window=4),
    "qwen2": transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=8),
    "gpt2": transformers.GPT2Config(**GPT_SHAPE, n_head=4),
    "gpt_neo": transformers.GPTNeoConfig(
        **GPT_SHAPE, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4
    ),
    "gemma": transformers.GemmaConfig(**SHAPE, head_dim=8),
    "phi3": transformers.Phi3Config(**SHAPE),
    "granite": transformers.GraniteConfig(**SHAPE, residual_multiplier=0.5),
    "olmo2": transformers.Olmo2Config(**SHAPE),
}
FAMILIES = tuple(CONFIGS)


def tensor_in_mixture(name: str, expert: int) -> str:
    """Return what a mixture calls tensor `name` of the fine-tune that is its expert at place `expert`."""
    return "language_model." + name.replace(".mlp.", f".mlp.experts.{expert}.", 1)


def make_sources(family: str, num_experts: int = 3) -> list[Any]:
    """Return dense models in evaluation mode that share all tensors but their feed-forwards'."""
    torch.manual_seed(7)
    base = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[family])).eval()
    base.generation_config.eos_token_id = None  # so that every text has the length that was asked for
    sources = [copy.deepcopy(base) for _ in range(num_experts)]
    for source in sources:
        for name, parameter in source.named_parameters():
            if ".mlp." in name:
                nn.init.normal_(parameter, std=0.3)
    return sources


def merge(sources: list[Any], **settings: Any) -> Any:
    """Return the mixture of `sources` in evaluation mode, behind a gate that is not sure of itself."""
    torch.manual_seed(11)
    config = GatedMixtureConfig(
        text_config=copy.deepcopy(sources[0].config),
        num_experts=len(sources),
        **{"gate_hidden_sizes": [8], "gate_dropout": 0.1, **settings},
    )
    mixture = GatedMixtureForCausalLM(config).eval()
    tensors = {
        tensor_in_mixture(name, expert): tensor
        for expert, source in enumerate(sources)
        for name, tensor in source.state_dict().items()
    }
    missing = mixture.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("gating_network.") for name in missing.missing_keys)
    mixture.generation_config = copy.deepcopy(sources[0].generation_config)
    return mixture


class FixedSum(nn.Module):
    """The slow plain version of a mixed feed-forward, for one sequence."""

    def __init__(self, experts: list[nn.Module], weights: list[float]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.weights = weights

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        outputs = [weight * expert(hidden) for weight, expert in zip(self.weights, self.experts, strict=True)]
        return torch.stack(outputs).sum(dim=0)


def mixed_by_hand(sources: list[Any], weights: list[float]) -> Any:
    """Return a dense model whose feed-forwards are the sources', summed with these weights."""
    mixed = copy.deepcopy(sources[0])
    names = [name for name, _ in mixed.named_modules() if name.endswith(".mlp")]
    for name in names:
        mixed.set_submodule(name, FixedSum([source.get_submodule(name) for source in sources], weights))
    return mixed


def prompts(*lengths: int) -> list[torch.Tensor]:
    """Return random token ids, one row [length] for each length."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCABULARY_SIZE, (length,), generator=generator) for length in lengths]


def padded(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask [B, T] of rows that are padded with random tokens on one side."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 9), torch.zeros(len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        place = slice(width - len(row), None) if side == "left" else slice(len(row))
        ids[at, place], mask[at, place] = row, 1
    return ids, mask
