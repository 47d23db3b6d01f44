"""Checks of converted layers: figures held against torch and transformers, verdicts against injected faults."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from moe_ray.moe.exactness import compare_models
from moe_ray.moe.running import TokenBatch, decoder_layers, load_for_construction, load_tokenizer, token_batches
from moe_ray.moe.upcycle.request import Limits
from moe_ray.moe.upcycle.verify import (
    LayerTests,
    broken_limit,
    examine_drift,
    examine_exactness,
    output_differences,
    replaced_agreements,
)
from tests.support.tiny_models import Architecture, make_tiny_checkpoint

TEXTS = ("the law of the court", "a drug and a cell is a list", "a contract", "def sum return assert")
LOOSE = Limits(max_kl=1e9, max_perplexity_ratio=1e9, min_agreement=0.0)


@pytest.fixture
def dense(tmp_path: Path) -> Any:
    return load_for_construction(make_tiny_checkpoint(tmp_path, "llama"))


@pytest.fixture
def batches(dense: Any, tmp_path: Path) -> list[TokenBatch]:
    tokenizer = load_tokenizer(tmp_path)
    return token_batches(tokenizer, TEXTS, vocabulary_size=dense.config.vocab_size, max_text_tokens=64)


def noisy(dense: Any, layer: int, scale: float) -> Any:
    other = copy.deepcopy(dense)
    changed: Any = decoder_layers(other)[layer]
    with torch.no_grad():
        weight = changed.mlp.down_proj.weight
        weight += scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return other


def test_figures_are_those_of_each_text_run_alone(dense: Any, tmp_path: Path, batches: list[TokenBatch]) -> None:
    other = noisy(dense, 0, 0.3)
    found = compare_models(dense, other, batches)
    tokenizer = load_tokenizer(tmp_path)
    kl, agreed, largest, losses = [], [], 0.0, [0.0, 0.0]
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            outputs = [model(input_ids=ids, labels=ids) for model in (dense, other)]
        here, there = (output.logits[0] for output in outputs)
        kl += (
            functional.kl_div(there.log_softmax(-1), here.log_softmax(-1), reduction="none", log_target=True)
            .sum(-1)
            .tolist()
        )
        agreed += (here.argmax(-1) == there.argmax(-1)).tolist()
        largest = max(largest, (here - there).abs().max().item())
        losses = [loss + output.loss.item() * (ids.numel() - 1) for loss, output in zip(losses, outputs, strict=True)]
    num_predicted = len(kl) - len(TEXTS)
    assert found.num_tokens == len(kl)
    assert found.kl == pytest.approx(sum(kl) / len(kl), rel=1e-3)
    assert found.greedy_agreement == sum(agreed) / len(agreed)
    assert found.max_difference == pytest.approx(largest, rel=1e-4)
    assert found.perplexity_ratio == pytest.approx(math.exp((losses[1] - losses[0]) / num_predicted), rel=1e-3)


def test_a_model_agrees_with_itself_wholly(dense: Any, batches: list[TokenBatch]) -> None:
    found = compare_models(dense, copy.deepcopy(dense), batches)
    assert found.max_difference == 0
    assert found.measured() == {"kl": 0, "perplexity_ratio": 1, "agreement": 1}


def test_a_replaced_layer_is_the_model_that_has_it(dense: Any, batches: list[TokenBatch]) -> None:
    other = noisy(dense, 1, 0.3)
    alone = replaced_agreements(dense, {1: decoder_layers(other)[1]}, batches)[1]
    whole = compare_models(dense, other, batches)
    assert alone.measured() == whole.measured()
    assert alone.max_difference == whole.max_difference > 0


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "phi3", "gpt2"])
def test_a_copied_layer_differs_by_nothing_in_any_family(tmp_path: Path, architecture: Architecture) -> None:
    model = load_for_construction(make_tiny_checkpoint(tmp_path, architecture))
    some = token_batches(load_tokenizer(tmp_path), TEXTS, vocabulary_size=model.config.vocab_size, max_text_tokens=64)
    own = decoder_layers(model)
    tests, copies = LayerTests(Limits()), {layer: copy.deepcopy(own[layer]) for layer in (0, 1)}
    examine_exactness(tests, model, copies, some)
    nothing = {"exact_layer_difference": 0, "exact_logit_difference": 0}
    assert tests.measured == {0: nothing, 1: nothing}


def test_the_dense_model_is_as_it_was_after_the_tests(dense: Any, batches: list[TokenBatch]) -> None:
    before = list(decoder_layers(dense))
    forwards = [layer.forward for layer in before]
    other = {at: decoder_layers(noisy(dense, at, 1.0))[at] for at in (0, 1)}
    output_differences(dense, other, batches)
    replaced_agreements(dense, other, batches)
    assert all(now is then for now, then in zip(decoder_layers(dense), before, strict=True))
    assert not any(module._forward_hooks for module in dense.modules())
    assert [layer.forward for layer in before] == forwards


def test_a_difference_that_is_no_number_is_infinite_and_breaks_every_limit(
    dense: Any, batches: list[TokenBatch]
) -> None:
    other = noisy(dense, 0, math.nan)
    tests = LayerTests(Limits())
    layers = {0: decoder_layers(other)[0]}
    examine_exactness(tests, dense, layers, batches)
    assert tests.measured[0]["exact_layer_difference"] == math.inf
    assert tests.passed == []
    drift = LayerTests(LOOSE)
    assert examine_drift(drift, dense, layers, batches) is None
    assert "kl" in drift.reasons[0]


def test_only_the_bad_layer_falls(dense: Any, batches: list[TokenBatch]) -> None:
    good, bad = noisy(dense, 0, 1e-9), noisy(dense, 1, 1.0)
    layers = {0: decoder_layers(good)[0], 1: decoder_layers(bad)[1]}
    tests = LayerTests(Limits())
    examine_exactness(tests, dense, layers, batches)
    examine_drift(tests, dense, layers, batches)
    verdicts = tests.verdicts(3)
    assert [verdict.state for verdict in verdicts] == ["converted", "reverted", "dense"]
    assert "exact_layer_difference" in (verdicts[1].reason or "")
    assert verdicts[0].measured.keys() == verdicts[0].limits.keys()
    assert "kl" in verdicts[0].measured
    assert "kl" not in verdicts[1].measured


def test_layers_that_pass_alone_but_not_together_lose_the_one_that_moved_most(
    dense: Any, batches: list[TokenBatch]
) -> None:
    layers = {0: decoder_layers(noisy(dense, 0, 0.02))[0], 1: decoder_layers(noisy(dense, 1, 0.05))[1]}
    alone = {layer: found.kl for layer, found in replaced_agreements(dense, layers, batches).items()}
    limits = Limits(max_kl=max(alone.values()) * 1.001, max_perplexity_ratio=1e9, min_agreement=0)
    tests = LayerTests(limits)
    left = examine_drift(tests, dense, layers, batches)
    worst = max(alone, key=lambda layer: alone[layer])
    assert tests.passed == [1 - worst]
    assert "together" in tests.reasons[worst]
    assert left is not None
    assert left.kl == alone[1 - worst]


@pytest.mark.parametrize(
    ("measured", "broken"),
    [
        ({"kl": 0.1, "perplexity_ratio": 1.1, "agreement": 0.9}, None),
        ({"kl": 0.11, "perplexity_ratio": 1.1, "agreement": 0.9}, "kl 0.11 is above 0.1"),
        ({"kl": 0.0, "perplexity_ratio": 1.2, "agreement": 0.5}, "perplexity_ratio 1.2 is above 1.1"),
        ({"kl": 0.0, "perplexity_ratio": 0.5, "agreement": 0.89}, "agreement 0.89 is below 0.9"),
        ({"kl": math.nan, "perplexity_ratio": 1.0, "agreement": 1.0}, "kl nan is above 0.1"),
    ],
)
def test_a_limit_is_kept_up_to_its_value(measured: dict[str, float], broken: str | None) -> None:
    assert broken_limit(measured, Limits().drift()) == broken
