"""Quantized models: what the plan says of their size, what they really take, and what is said without bitsandbytes.

Loads of real quantized models need bitsandbytes, whose wheels run on CPUs too; they are skipped where it is absent.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ModelError
from moe_ray.planning.memory import planned_weights_bytes
from tests.engines.asking import ask_all, engine
from tests.support.tiny_models import Architecture, make_tokenizer

Checkpoints = Callable[[Architecture], Path]
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

MISTRAL_7B = {
    "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu", "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
MISTRAL_PARAMETERS = 7_248_023_552
MIXTRAL_8X7B = {**MISTRAL_7B, "vocab_size": 32000, "num_local_experts": 8}
MIXTRAL_PARAMETERS = 46_702_792_704


def planned(num_parameters: int, config: dict[str, Any] | None, quantization: str) -> int:
    return planned_weights_bytes(num_parameters, config, ModelConfig(path="./m", quantization=quantization))


def test_the_plan_keeps_embeddings_and_counts_scales() -> None:
    """The closed form: 2 bytes for each embedding and output weight; 4 bits and 1/64 scale, or 8 bits, for others."""
    kept = 2 * 32768 * 4096
    linear = MISTRAL_PARAMETERS - kept
    assert planned(MISTRAL_PARAMETERS, MISTRAL_7B, "none") == 2 * MISTRAL_PARAMETERS
    assert planned(MISTRAL_PARAMETERS, MISTRAL_7B, "4bit") == pytest.approx(2 * kept + linear / 2 + 4 * linear / 64)
    assert planned(MISTRAL_PARAMETERS, MISTRAL_7B, "8bit") == pytest.approx(2 * kept + linear, rel=2e-3)


def test_the_plan_does_not_shrink_experts_that_stay_as_they_are() -> None:
    experts = 32 * 8 * 3 * 4096 * 14336
    assert planned(MIXTRAL_PARAMETERS, MIXTRAL_8X7B, "4bit") > 2 * experts
    assert planned(MIXTRAL_PARAMETERS, MIXTRAL_8X7B, "4bit") < 2 * MIXTRAL_PARAMETERS


def test_a_size_known_by_name_alone_is_planned_on_the_safe_side() -> None:
    for quantization in ("8bit", "4bit"):
        guessed = planned(MISTRAL_PARAMETERS, None, quantization)
        assert 1.0 < guessed / planned(MISTRAL_PARAMETERS, MISTRAL_7B, quantization) < 1.3


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_without_bitsandbytes_nothing_is_loaded_and_the_remedy_is_named(
    quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=f"quantization {quantization} needs bitsandbytes") as caught:
        engine(Path("/there/is/no/such/checkpoint"), quantization=quantization, gpus=0)
    assert "moe_ray[quantization]" in (caught.value.remedy or "")


@pytest.fixture(scope="module")
def llama_30m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random Llama of 32 million parameters, a quarter of them embeddings and output layer."""
    directory = tmp_path_factory.mktemp("llama-30m")
    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def small_mixture(directory: Path) -> Path:
    config = transformers.MixtralConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, num_local_experts=4,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def planned_of(directory: Path, quantization: str) -> int:
    model = ModelConfig(path=str(directory), quantization=quantization)
    checkpoint = inspect_checkpoint("m", model, FileHashes(directory / "hashes.cache"))
    assert checkpoint.num_parameters is not None
    return planned_weights_bytes(checkpoint.num_parameters, checkpoint.config, model)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_real_quantized_model_takes_what_was_planned_and_answers(quantization: str, llama_30m: Path) -> None:
    loaded = engine(llama_30m, quantization=quantization, gpus=0)
    kinds = {type(parameter).__name__ for parameter in loaded._loaded.model.parameters()}
    assert kinds == {"Parameter", {"8bit": "Int8Params", "4bit": "Params4bit"}[quantization]}
    assert planned_of(llama_30m, quantization) == pytest.approx(loaded.memory().weights_bytes, rel=0.01)
    assert planned_of(llama_30m, quantization) == pytest.approx(loaded._loaded.model.get_memory_footprint(), rel=0.06)
    answers = loaded.generate(ask_all(num=4))
    assert all(one.error is None and one.token_ids for one in answers)


@needs_bitsandbytes
def test_a_real_mixture_keeps_its_experts_as_planned(tmp_path: Path) -> None:
    loaded = engine(small_mixture(tmp_path), quantization="4bit", gpus=0)
    assert planned_of(tmp_path, "4bit") == pytest.approx(loaded.memory().weights_bytes, rel=0.01)


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "error"), [("8bit", 0.1), ("4bit", 0.5)])
@torch.no_grad()
def test_quantized_logits_stay_near_those_of_the_plain_model(quantization: str, error: float, llama_30m: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    models = [engine(llama_30m, quantization=kind, gpus=0)._loaded.model for kind in ("none", quantization)]
    plain, quantized = (model(ids).logits.float() for model in models)
    assert 0 < float((quantized - plain).norm() / plain.norm()) < error
