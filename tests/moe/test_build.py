"""Upcycling from end to end: what is converted, what is reverted, what is said of it, what is left when it fails."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from moe_ray.errors import ConfigError, DataError, ModelError, RunFailedError
from moe_ray.moe.certificate import card_metadata, read_certificate
from moe_ray.moe.upcycle.build import build_upcycle
from moe_ray.moe.upcycle.request import GateRequest, Limits, UpcycleRequest
from tests.moe.dense import make_dense
from tests.support.tiny_models import make_tiny_checkpoint, make_tokenizer

LOOSE = Limits(max_kl=1e9, max_perplexity_ratio=1e9, min_agreement=0)
TEXTS = [("the law of the court", "law"), ("a drug and a cell is a list", "cells"), ("a contract", "law")]


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "dense", "llama")


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "expert": expert}) + "\n" for text, expert in TEXTS))
    return str(path)


def granite(directory: Path) -> Path:
    tokenizer = make_tokenizer()
    make_dense(directory, "granite", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(directory)
    return directory


def logits(directory: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(3, 40)[None]).logits
    return found


def spoil(layer: int) -> Any:
    """Noise in one layer's own weights, as a conversion that went wrong would leave it."""

    def corrupt(layers: Mapping[int, nn.Module]) -> None:
        with torch.no_grad():
            for parameter in layers[layer].parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))

    return corrupt


def states(directory: Path) -> list[str]:
    return [verdict.state for verdict in read_certificate(directory).layers]


def test_a_mixture_of_copies_is_exact_and_says_so(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    certificate = build_upcycle(dense, out, UpcycleRequest(num_experts=4))
    assert read_certificate(out) == certificate
    assert states(out) == ["converted", "converted"]
    (record,) = certificate.exactness
    difference = (logits(dense) - logits(out)).abs().max().item()
    assert max(difference, record.max_logit_difference) < 1e-4
    assert (record.greedy_agreement, record.reload_equal) == (1.0, True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_bad_layer_is_found_and_dense_again(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    certificate = build_upcycle(dense, out, UpcycleRequest(num_experts=2), corrupt=spoil(1))
    assert states(out) == ["converted", "reverted"]
    assert "exact_layer_difference" in (certificate.layers[1].reason or "")
    config = transformers.AutoConfig.from_pretrained(out)
    assert (config.model_type, config.mlp_only_layers) == ("qwen2_moe", [1])
    assert (logits(dense) - logits(out)).abs().max() < 1e-4


def test_a_layer_that_noise_moved_too_far_is_dense_again(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    noisy = UpcycleRequest(num_experts=2, experts="noise", noise=0.05, limits=LOOSE)
    figures = [verdict.measured for verdict in build_upcycle(dense, out, noisy).layers]
    worse = max((0, 1), key=lambda layer: figures[layer]["kl"])
    limits = LOOSE.model_copy(update={"max_kl": (figures[0]["kl"] + figures[1]["kl"]) / 2})
    held = noisy.model_copy(update={"limits": limits})
    certificate = build_upcycle(dense, tmp_path / "held", held)
    assert certificate.layers[worse].state == "reverted"
    assert certificate.layers[1 - worse].state == "converted"
    assert certificate.layers[worse].measured == figures[worse]
    assert (certificate.layers[worse].reason or "").startswith("kl ")


def test_a_class_without_dense_layers_keeps_copies_in_the_layers_that_failed(tmp_path: Path) -> None:
    dense, out = granite(tmp_path / "granite"), tmp_path / "out"
    request = UpcycleRequest(num_experts=2, experts="noise", noise=0.01, limits=LOOSE)
    certificate = build_upcycle(dense, out, request, corrupt=spoil(1))
    assert states(out) == ["converted", "reverted", "converted"]
    assert "granitemoe has no dense layers" in (certificate.layers[1].reason or "")
    hows = {origin.how for origin in certificate.tensors if ".layers.1." in origin.tensor}
    assert not any("noise" in how for how in hows)
    assert any("noise" in origin.how for origin in certificate.tensors if ".layers.0." in origin.tensor)


@pytest.mark.parametrize("architecture", ["mistral", "qwen2", "phi3", "gpt2"])
def test_half_of_a_model_of_any_family_is_converted_exactly(tmp_path: Path, architecture: Any) -> None:
    dense = make_tiny_checkpoint(tmp_path / "dense", architecture)
    certificate = build_upcycle(dense, tmp_path / "out", UpcycleRequest(num_experts=2, every=2))
    assert [verdict.state for verdict in certificate.layers] == ["dense", "converted"]
    assert certificate.exactness[0].max_logit_difference < 1e-4
    load = f"from_pretrained(DIR{', trust_remote_code=True' if architecture == 'gpt2' else ''})"
    assert load in (tmp_path / "out" / "README.md").read_text()


def test_without_checks_no_model_is_loaded_and_nothing_is_claimed(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("moe_ray.moe.upcycle.convert", "moe_ray.moe.upcycle.build"):
        monkeypatch.setattr(importlib.import_module(name), "load_for_construction", None)
    out = tmp_path / "out"
    certificate = build_upcycle(dense, out, UpcycleRequest(num_experts=2, layers=[0], check=False))
    assert certificate.exactness == []
    assert [(one.state, one.measured) for one in certificate.layers] == [("converted", {}), ("dense", {})]
    assert "This was not measured." in (out / "README.md").read_text()
    assert (logits(dense) - logits(out)).abs().max() < 1e-4


def test_nothing_is_left_when_no_layer_passes(dense: Path, tmp_path: Path) -> None:
    request = UpcycleRequest(num_experts=2, experts="noise", noise=1.0)
    with pytest.raises(RunFailedError, match="no layer could stay converted: layer 0: "):
        build_upcycle(dense, tmp_path / "out", request)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("init", ["prompts", "ridge"])
def test_gates_of_texts_stand_in_the_checkpoint(dense: Path, tmp_path: Path, texts: str, init: Any) -> None:
    out = tmp_path / "out"
    request = UpcycleRequest(
        num_experts=4, groups=2, experts="groups", texts=texts, gate=GateRequest(init=init, scale=2)
    )
    certificate = build_upcycle(dense, out, request)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    weight = model.model.layers[0].mlp.gate.weight
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])
    assert init != "prompts" or torch.allclose(weight.norm(dim=1), torch.tensor(2.0))
    assert certificate.settings["texts_sha256"]
    assert certificate.exactness[0].max_logit_difference < 1e-4


def test_experts_of_fine_tunes_are_named_as_sources(tmp_path: Path) -> None:
    tunes = []
    base = make_tiny_checkpoint(tmp_path / "base", "qwen2")
    for number in range(2):
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.down_proj.weight *= 1 + 0.01 * (number + 1)
        model.save_pretrained(tmp_path / f"tune{number}")
        make_tokenizer().save_pretrained(tmp_path / f"tune{number}")
        tunes.append(str(tmp_path / f"tune{number}"))
    request = UpcycleRequest(num_experts=2, experts="models", fine_tunes=tunes, limits=LOOSE)
    certificate = build_upcycle(base, tmp_path / "out", request)
    assert [source.name for source in certificate.sources] == ["base", "tune0", "tune1"]
    assert {origin.source for origin in certificate.tensors} == {"base", "tune0", "tune1", None}
    assert card_metadata(tmp_path / "out")["base_model"] == ["base", "tune0", "tune1"]


def test_the_card_tells_bases_and_the_licence_that_a_source_tells(dense: Path, tmp_path: Path) -> None:
    (dense / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    build_upcycle(dense, tmp_path / "mix", UpcycleRequest(num_experts=2))
    metadata = card_metadata(tmp_path / "mix")
    assert metadata["base_model"] == ["dense"]
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "transformers"
    assert "mixture-of-experts" in metadata["tags"]
    assert "# mix\n" in (tmp_path / "mix" / "README.md").read_text()


def test_a_card_without_a_licence_tells_none(dense: Path, tmp_path: Path) -> None:
    build_upcycle(dense, tmp_path / "mix", UpcycleRequest(num_experts=2, layers=[0]))
    assert "license" not in card_metadata(tmp_path / "mix")


def test_what_is_at_the_target_is_never_replaced(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(ModelError):
        build_upcycle(dense, tmp_path / "out", UpcycleRequest(num_experts=2))
    assert (tmp_path / "out" / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    "request_of",
    [
        {"experts": "models"},
        {"experts": "copies", "fine_tunes": ["x"]},
        {"experts": "groups"},
        {"experts": "noise"},
        {"experts": "copies", "noise": 0.1},
        {"gate": {"init": "ridge"}},
    ],
)
def test_settings_that_contradict_each_other_are_refused(dense: Path, request_of: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build_upcycle(dense, dense.parent / "out", UpcycleRequest.model_validate({"num_experts": 2, **request_of}))


def test_gates_need_texts_of_each_expert(dense: Path, texts: str, tmp_path: Path) -> None:
    request = UpcycleRequest(num_experts=4, texts=texts, gate=GateRequest(init="ridge"))
    with pytest.raises(DataError, match="texts of 2 experts, where gates need 4"):
        build_upcycle(dense, tmp_path / "out", request)
