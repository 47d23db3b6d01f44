"""Mixtures as planning sees them: sizes, caches and identities from their files, held against the models themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from moe_ray import architectures
from moe_ray.architectures.shapes import cache_bytes_per_token, parameter_groups, parameters_of_config
from moe_ray.checkpoints.identity import CERTIFICATE_FILE, Checkpoint, FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.planning.memory import ModelUse, estimate_memory

ENDS: dict[str, Any] = {"vocab_size": 1000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED: dict[str, Any] = {
    **ENDS, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": False,
}  # fmt: skip
QWEN: dict[str, Any] = {
    **GROUPED, "moe_intermediate_size": 96, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2,
    "head_dim": 16,
}  # fmt: skip
OWN: dict[str, Any] = {**ENDS, "num_experts": 3, "num_experts_per_tok": 2, "mlp_only_layers": [0]}


def gated_mixture() -> Any:
    return AutoConfig.for_model("gated_mixture", text_config=LlamaConfig(**GROUPED), num_experts=3, dtype="float32")


CONFIGS: dict[str, Callable[[], Any]] = {
    "every other layer of qwen2_moe": lambda: AutoConfig.for_model(
        "qwen2_moe", **QWEN, shared_expert_intermediate_size=64
    ),
    "two layers of qwen3_moe": lambda: AutoConfig.for_model(
        "qwen3_moe", **{**QWEN, "decoder_sparse_step": 1}, mlp_only_layers=[0, 3]
    ),
    "granitemoe": lambda: AutoConfig.for_model("granitemoe", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "flex_olmo": lambda: AutoConfig.for_model("flex_olmo", **GROUPED, num_experts=4, num_experts_per_tok=2),
    "gpt2_moe": lambda: AutoConfig.for_model("gpt2_moe", **OWN, n_embd=128, n_layer=4, n_head=8, n_positions=16),
    "gpt_neo_moe": lambda: AutoConfig.for_model(
        "gpt_neo_moe", **OWN, hidden_size=128, num_layers=4, num_heads=8, max_position_embeddings=16,
        attention_types=[[["global", "local"], 2]], moe_intermediate_size=200,
    ),
    "opt_moe": lambda: AutoConfig.for_model(
        "opt_moe", **OWN, hidden_size=128, num_hidden_layers=4, num_attention_heads=8, ffn_dim=300,
        max_position_embeddings=16, word_embed_proj_dim=128,
    ),
    "gated_mixture": gated_mixture,
}  # fmt: skip
OWN_TYPES = ("gpt2_moe", "gpt_neo_moe", "opt_moe", "gated_mixture")


@pytest.fixture(autouse=True)
def _registered() -> None:
    architectures.register()


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]())


def config_of(config: PreTrainedConfig, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded


def inspected(folder: Path, **settings: Any) -> Checkpoint:
    return inspect_checkpoint("m", ModelConfig(path=str(folder), **settings), FileHashes(folder / "hashes.cache"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_mixtures_parameters_are_estimated_within_two_percent(name: str, tmp_path: Path) -> None:
    estimated = parameters_of_config(config_of(CONFIGS[name](), tmp_path))
    assert estimated == pytest.approx(model_of(name).num_parameters(), rel=0.02)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_experts_that_are_no_linear_layers_keep_their_dtype_when_quantized(name: str, tmp_path: Path) -> None:
    """Routed experts lie in tensors of three axes; quantization shrinks matrices alone."""
    groups = parameter_groups(config_of(CONFIGS[name](), tmp_path))
    assert groups is not None
    stacked = sum(parameter.numel() for parameter in model_of(name).parameters() if parameter.dim() == 3)
    assert groups.experts == stacked


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_of_a_mixtures_token_is_what_a_real_cache_holds(name: str, tmp_path: Path) -> None:
    num_tokens = 5
    cache = model_of(name).eval()(torch.full((1, num_tokens), 3), use_cache=True).past_key_values
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    real_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    config = config_of(CONFIGS[name](), tmp_path)
    assert cache_bytes_per_token(config, "float32") * num_tokens == real_bytes


@pytest.mark.parametrize("name", OWN_TYPES)
def test_an_own_class_saved_with_its_code_has_an_exact_size_and_an_estimate(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    checkpoint = inspected(tmp_path, dtype="auto")
    kept = model.state_dict()
    num_saved = model.num_parameters() + sum(one.numel() for name, one in model.named_buffers() if name in kept)
    assert (checkpoint.num_parameters, checkpoint.size_source) == (num_saved, "safetensors headers")
    estimate = estimate_memory(checkpoint, ModelConfig(path=str(tmp_path)), ModelUse(16, 16), max_cache_bytes=1 << 32)
    assert estimate.weights_bytes == 4 * num_saved
    assert estimate.cache_bytes == 16 * 16 * estimate.cache_bytes_per_token > 0


def test_a_mixtures_identity_is_its_weights_settings_and_code_and_not_how_it_was_made(tmp_path: Path) -> None:
    model_of("gated_mixture").save_pretrained(tmp_path)
    before = inspected(tmp_path).identity.fingerprint
    (tmp_path / CERTIFICATE_FILE).write_text('{"created_at": 1}')
    (tmp_path / "README.md").write_text("a card")
    assert inspected(tmp_path).identity.fingerprint == before
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("weighted_sum", "select_one"))
    chosen = inspected(tmp_path).identity.fingerprint
    code = tmp_path / "gated_mixture.py"
    code.write_text(code.read_text() + "\n")
    assert len({before, chosen, inspected(tmp_path).identity.fingerprint}) == 3
