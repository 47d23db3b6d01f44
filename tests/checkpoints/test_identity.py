"""What is read from checkpoint files, held against the models that wrote them."""

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers

from moe_ray.architectures.shapes import cache_bytes_per_token, parameters_of_config
from moe_ray.checkpoints.identity import Checkpoint, FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ModelError
from moe_ray.hub import hub_answers
from moe_ray.planning.memory import DEVICE_OVERHEAD_BYTES, ModelUse, estimate_memory

SHAPE: dict[str, Any] = {
    "vocab_size": 5000,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama-tied": lambda: transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "llama-wide-heads": lambda: transformers.LlamaConfig(**GROUPED, head_dim=32),
    "mistral": lambda: transformers.MistralConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "phi3": lambda: transformers.Phi3Config(**GROUPED),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=5000, n_embd=128, n_layer=3, n_head=8, n_positions=64),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
}


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())


def config_of(name: str, folder: Path) -> dict[str, Any]:
    CONFIGS[name]().save_pretrained(folder)
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded


def inspected(folder: Path, **settings: Any) -> Checkpoint:
    return inspect_checkpoint("m", ModelConfig(path=str(folder), **settings), FileHashes(folder / "hashes.cache"))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_estimated_from_the_config_within_two_percent_of_the_model(name: str, tmp_path: Path) -> None:
    estimated = parameters_of_config(config_of(name, tmp_path))
    assert estimated == pytest.approx(model_of(name).num_parameters(), rel=0.02)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "mixtral"])
def test_parameters_are_counted_exactly_from_safetensors_headers(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    checkpoint = inspected(tmp_path)
    assert (checkpoint.num_parameters, checkpoint.size_source) == (model.num_parameters(), "safetensors headers")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_of_a_token_is_what_a_real_cache_holds(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    num_tokens = 7
    cache = model(torch.zeros((1, num_tokens), dtype=torch.long), use_cache=True).past_key_values
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    real_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    config = config_of(name, tmp_path)
    assert cache_bytes_per_token(config, "float32") * num_tokens == real_bytes
    assert cache_bytes_per_token(config, "bfloat16") * num_tokens == real_bytes / 2


def test_published_sizes_come_out_of_published_configs() -> None:
    """Mistral-7B-Instruct-v0.3: 7.248 billion parameters; 128 KiB of cache a token in 16 bits."""
    config = {
        "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu", "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    assert parameters_of_config(config) == pytest.approx(7_248_023_552, rel=1e-3)
    assert cache_bytes_per_token(config, "auto") == 128 * 1024


def test_an_estimate_is_weights_cache_activations_and_overhead(tmp_path: Path) -> None:
    model = model_of("llama")
    model.save_pretrained(tmp_path)
    settings, use = ModelConfig(path=str(tmp_path), dtype="float32"), ModelUse(context_tokens=10, concurrency=4)
    estimate = estimate_memory(inspected(tmp_path, dtype="float32"), settings, use, max_cache_bytes=1 << 32)
    weights = 4 * model.num_parameters()
    cache = 4 * 10 * cache_bytes_per_token(model.config.to_dict(), settings.dtype)
    assert (estimate.weights_bytes, estimate.cache_bytes) == (weights, cache)
    assert estimate.total_bytes == weights + cache + int(0.1 * weights) + DEVICE_OVERHEAD_BYTES


def test_a_batchs_cache_is_bounded_and_holds_one_row_at_least(tmp_path: Path) -> None:
    model_of("llama").save_pretrained(tmp_path)
    checkpoint, settings = inspected(tmp_path), ModelConfig(path=str(tmp_path), dtype="float32")
    row = 1000 * cache_bytes_per_token(checkpoint.config or {}, settings.dtype)
    for limit_rows, rows in [(100.0, 16.0), (2.5, 2.5), (0.5, 1.0)]:
        estimate = estimate_memory(checkpoint, settings, ModelUse(1000, 16), max_cache_bytes=int(limit_rows * row))
        assert estimate.cache_bytes == pytest.approx(rows * row, abs=2)


def with_header(header: bytes, *, promised_bytes: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if promised_bytes is None else promised_bytes) + header + data


ENTRY = b'{"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}'
DAMAGED = {
    "empty": b"",
    "half of the length": b"\x01\x02",
    "a header longer than the file": with_header(ENTRY, promised_bytes=10_000, data=bytes(16)),
    "an absurd header length": with_header(ENTRY, promised_bytes=2**63, data=bytes(16)),
    "a header that is not JSON": with_header(b"nonsense", data=bytes(16)),
    "a header that is a list": with_header(b"[]"),
    "an entry without a shape": with_header(b'{"w": {"dtype": "F32", "data_offsets": [0, 0]}}'),
    "an entry that is a number": with_header(b'{"w": 3}'),
    "cut off": with_header(ENTRY, data=bytes(9)),
    "with bytes too many": with_header(ENTRY, data=bytes(20)),
    "a type that does not exist": with_header(ENTRY.replace(b"F32", b"F33"), data=bytes(16)),
    "a shape of other bytes": with_header(ENTRY.replace(b"[2, 2]", b"[2, 3]"), data=bytes(16)),
    "a shape beyond all numbers": with_header(ENTRY.replace(b"[2, 2]", b"[9223372036854775807, 4]"), data=bytes(16)),
    "tensors over one another": with_header(ENTRY[:-1] + b", " + ENTRY[1:].replace(b"w", b"v", 1), data=bytes(16)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_weights_are_refused_by_name(damage: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[damage])
    with pytest.raises(ModelError, match="damaged weights") as caught:
        inspected(tmp_path)
    assert caught.value.where == str(tmp_path / "model.safetensors")


def test_a_pipe_in_the_place_of_weights_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="not a regular file"):
        inspected(tmp_path)


def test_a_sound_header_is_counted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(with_header(ENTRY, data=bytes(16)))
    assert inspected(tmp_path).num_parameters == 4


def test_a_folder_that_is_no_checkpoint_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        inspected(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        inspect_checkpoint("m", ModelConfig(path=str(tmp_path / "absent")), FileHashes(tmp_path / "hashes"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON that can be read"):
        inspected(tmp_path)


UNREACHABLE = "the hub cannot be reached; moe-ray models download fetches it"


@pytest.fixture
def hub_asked_anew() -> Iterator[None]:
    """Whether the hub answers is remembered in a process; what one test found must not reach another."""
    hub_answers.cache_clear()
    yield
    hub_answers.cache_clear()


@pytest.mark.usefixtures("hub_asked_anew")
def test_a_hub_id_out_of_reach_gets_its_size_from_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for path, num_parameters, source in [
        ("owner/Model-7B-v1", 7 * 10**9, f"its name: {UNREACHABLE}"),
        ("owner/Model-1.5b", 15 * 10**8, f"its name: {UNREACHABLE}"),
        ("owner/Model", None, f"unknown: {UNREACHABLE}"),
    ]:
        checkpoint = inspect_checkpoint("m", ModelConfig(path=path), FileHashes(tmp_path / "hashes"))
        found = (checkpoint.num_parameters, checkpoint.size_source, checkpoint.config)
        assert found == (num_parameters, source, None)


@pytest.mark.usefixtures("hub_asked_anew")
def test_a_hub_that_refuses_connections_is_asked_once_for_all_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """huggingface_hub would wait and ask again for each model, half a minute each."""
    num_connections = 0
    closing = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        nonlocal num_connections
        while True:
            try:
                connection, _ = closing.accept()
            except OSError:
                return
            num_connections += 1
            connection.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{closing.getsockname()[1]}")
    for path in ("owner/Model-7B", "owner/Other-1B"):
        checkpoint = inspect_checkpoint("m", ModelConfig(path=path), FileHashes(tmp_path / "hashes"))
        assert checkpoint.size_source == f"its name: {UNREACHABLE}"
    closing.shutdown(socket.SHUT_RDWR)
    closing.close()
    thread.join(timeout=10)
    assert num_connections == 1


def test_template_switches_make_another_model_and_none_leave_every_key_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_RAY_CACHE", str(tmp_path))

    def identity(**fields: Any) -> str:
        model = ModelConfig.model_validate({"path": "scripted/m", "engine": "scripted", **fields})
        return inspect_checkpoint("m", model, FileHashes()).identity.fingerprint

    switched = {"chat_template_kwargs": {"enable_thinking": False}}
    assert identity() == identity(chat_template_kwargs={}) == identity(reasoning="none")
    assert identity() == "de8dfeb61b46b3fe8b99fcfbaba1808a"
    assert len({identity(), identity(**switched), identity(chat_template_kwargs={"enable_thinking": True})}) == 3
