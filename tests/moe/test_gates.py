"""Gate weights, held against plain loops over hidden states and against scikit-learn's ridge regression."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from moe_ray.errors import DataError
from moe_ray.moe.gates import prompt_gates, ridge_gates
from moe_ray.moe.running import TokenBatch, load_for_construction, load_tokenizer, token_batches
from tests.support.tiny_models import Architecture, make_tiny_checkpoint

TEXTS = ("the law of the court", "a drug and a cell", "a contract is a law", "yes", "the cell of the drug is a list")
LABELS = (0, 1, 0, 2, 1)
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "gpt2", "phi3")


def loaded(directory: Path, architecture: Architecture) -> tuple[Any, Any]:
    make_tiny_checkpoint(directory, architecture)
    return load_for_construction(directory), load_tokenizer(directory)


def batches_of(model: Any, tokenizer: Any, texts: tuple[str, ...] = TEXTS) -> list[TokenBatch]:
    return token_batches(
        tokenizer, texts, vocabulary_size=model.config.vocab_size, max_text_tokens=64, labels=LABELS[: len(texts)]
    )


def inputs_one_by_one(model: Any, tokenizer: Any, layer: int) -> list[torch.Tensor]:
    """Each text's gate inputs [T, H] at a layer: its second norm's output, of the text alone."""
    block = model.transformer.h[layer] if hasattr(model, "transformer") else model.model.layers[layer]
    norm = block.ln_2 if hasattr(block, "ln_2") else block.post_attention_layernorm
    seen: list[torch.Tensor] = []
    handle = norm.register_forward_hook(lambda _, __, output: seen.append(output[0].detach()))
    for text in TEXTS:
        model(**tokenizer(text, return_tensors="pt"))
    handle.remove()
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompt_gates_point_where_the_mean_of_each_experts_tokens_points(
    tmp_path: Path, architecture: Architecture
) -> None:
    model, tokenizer = loaded(tmp_path, architecture)
    gates = prompt_gates(model, batches_of(model, tokenizer), [0, 1], num_experts=3, scale=2.0)
    for layer in (0, 1):
        texts = inputs_one_by_one(model, tokenizer, layer)
        for expert in range(3):
            mean = torch.cat([x for x, label in zip(texts, LABELS, strict=True) if label == expert]).mean(dim=0)
            torch.testing.assert_close(gates[layer][expert], 2 * mean / mean.norm(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ridge_gates_are_those_of_scikit_learn(tmp_path: Path, architecture: Architecture) -> None:
    model, tokenizer = loaded(tmp_path, architecture)
    gate = ridge_gates(model, batches_of(model, tokenizer), [1], num_experts=3, penalty=0.05)[1]
    texts = inputs_one_by_one(model, tokenizer, 1)
    x = torch.cat(texts).double().numpy()
    labels = np.repeat(LABELS, [len(text) for text in texts])
    weights = 1 / (3 * np.bincount(labels)[labels])
    alpha = 0.05 * (weights[:, None] * x**2).sum(axis=0).mean()
    peer = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky").fit(x, np.eye(3)[labels], sample_weight=weights)
    np.testing.assert_allclose(gate.numpy(), peer.coef_, atol=2e-4, rtol=1e-3)


def test_ridge_gates_send_the_texts_they_were_made_from_to_their_experts(tmp_path: Path) -> None:
    model, tokenizer = loaded(tmp_path, "llama")
    gate = ridge_gates(model, batches_of(model, tokenizer), [1], num_experts=3, penalty=1e-4)[1]
    inputs = inputs_one_by_one(model, tokenizer, 1)
    chosen = [int((text @ gate.T)[1:].mean(dim=0).argmax()) for text in inputs]
    assert chosen == list(LABELS)


def test_doing_a_layer_at_a_time_changes_nothing(tmp_path: Path) -> None:
    model, tokenizer = loaded(tmp_path, "llama")
    batches = batches_of(model, tokenizer)
    together = ridge_gates(model, batches, [0, 1], num_experts=3)
    apart = ridge_gates(model, batches, [0, 1], num_experts=3, max_statistics_bytes=1)
    assert all(torch.equal(together[layer], apart[layer]) for layer in (0, 1))


def test_collecting_leaves_no_hook_behind(tmp_path: Path) -> None:
    model, tokenizer = loaded(tmp_path, "llama")
    prompt_gates(model, batches_of(model, tokenizer), [0, 1], num_experts=3)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_batches_hold_every_token_once_and_stay_within_their_bound(tmp_path: Path) -> None:
    _, tokenizer = loaded(tmp_path, "llama")
    texts = [f"the law {'of ' * at}" for at in range(40)]
    batches = token_batches(tokenizer, texts, vocabulary_size=(1 << 26) // 100, max_text_tokens=30)
    rows = [
        row[mask.bool()].tolist()
        for one in batches
        for row, mask in zip(one.input_ids, one.attention_mask, strict=True)
    ]
    assert rows == [row[:30] for row in tokenizer(texts)["input_ids"]]
    assert all(one.input_ids.numel() <= 100 for one in batches)
    assert len(batches) > 1


def test_a_bound_on_tokens_stops_at_the_text_that_reaches_it(tmp_path: Path) -> None:
    _, tokenizer = loaded(tmp_path, "llama")
    length = len(tokenizer("the law")["input_ids"])
    batches = token_batches(
        tokenizer, ["the law"] * 10, vocabulary_size=len(tokenizer), max_text_tokens=30, max_tokens=2 * length + 1
    )
    assert sum(one.num_tokens for one in batches) == 3 * length


def test_texts_of_no_tokens_are_refused(tmp_path: Path) -> None:
    _, tokenizer = loaded(tmp_path, "llama")
    with pytest.raises(DataError):
        token_batches(tokenizer, ["", ""], vocabulary_size=len(tokenizer), max_text_tokens=30)
