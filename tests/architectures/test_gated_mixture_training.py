"""Training a gated mixture: what the gate sees, and which way the loss moves it."""

import copy
from typing import Any

import pytest
import torch

from tests.architectures.gated import make_sources, merge, padded, prompts

MODES = ("weighted_sum", "select_one")
NUM_PROMPT_TOKENS = 4


@pytest.fixture(scope="module")
def mixture() -> Any:
    return merge(make_sources("llama"), gate_dropout=0.0)


def batch() -> dict[str, torch.Tensor]:
    """Two sequences, padded on the right, whose first 4 tokens are the prompt."""
    ids, mask = padded(prompts(9, 7), "right")
    labels = torch.where(mask == 1, ids, -100)
    labels[:, :NUM_PROMPT_TOKENS] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(model: Any, **how: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch(), **how).loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_the_gate_reads_the_prompt_and_never_the_answer(mixture: Any) -> None:
    given = batch()
    expected = mixture.get_gating_probs(given["input_ids"][:, :NUM_PROMPT_TOKENS])
    found = mixture(**given)
    torch.testing.assert_close(found.gating_probs, expected, atol=1e-6, rtol=0)
    without_labels = {name: given[name] for name in ("input_ids", "attention_mask")}
    prompt_mask = torch.zeros_like(given["attention_mask"])
    prompt_mask[:, :NUM_PROMPT_TOKENS] = 1
    by_mask = mixture(**without_labels, prompt_mask=prompt_mask)
    assert torch.equal(by_mask.logits, found.logits)
    assert not torch.allclose(mixture(**without_labels).gating_probs, expected, atol=1e-3)


def test_the_loss_is_the_answers_cross_entropy(mixture: Any) -> None:
    given = batch()
    outputs = mixture(**given)
    logits, labels = outputs.logits[:, :-1].flatten(0, 1), given["labels"][:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100])
    torch.testing.assert_close(outputs.loss, expected)


def test_labels_that_leave_no_prompt_are_refused(mixture: Any) -> None:
    given = batch()
    given["labels"] = given["input_ids"]
    with pytest.raises(ValueError, match="no prompt"):
        mixture(**given)
    assert mixture(**given, forced_expert=0).loss.isfinite()


@pytest.mark.parametrize("mode", MODES)
def test_the_language_modelling_loss_reaches_the_gate(mixture: Any, mode: str) -> None:
    found = gradients(mixture, mixture_mode=mode)
    assert found["gating_network.output.weight"].abs().max() > 0
    assert "gating_network.output.weight" not in gradients(mixture, forced_expert=1)


def test_a_chosen_experts_output_is_the_same_with_and_without_gradients(mixture: Any) -> None:
    with_gradients = mixture(**batch(), mixture_mode="select_one").logits
    with torch.no_grad():
        assert torch.equal(mixture(**batch(), mixture_mode="select_one").logits, with_gradients)


def test_gradients_of_the_gate_are_those_of_finite_differences(mixture: Any) -> None:
    exact = copy.deepcopy(mixture).double()
    parameter = exact.gating_network.output.bias
    gradient = gradients(exact)["gating_network.output.bias"]
    step = 1e-2  # the gate's softmax and the loss are float32's, whatever the model is
    for place in range(3):
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * step
                losses.append(float(exact(**batch()).loss))
                parameter[place] -= sign * step
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(gradient[place]), abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
@pytest.mark.parametrize("mode", MODES)
def test_checkpointed_gradients_are_those_of_the_plain_pass(family: str, mode: str) -> None:
    mixture = merge(make_sources(family), gate_dropout=0.0)
    mixture.train()
    for module in mixture.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    expected = gradients(mixture, mixture_mode=mode, use_cache=False)
    mixture.activation_checkpointing_enable()
    found = gradients(mixture, mixture_mode=mode, use_cache=False)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("mode", MODES)
def test_autocast_leaves_the_gate_in_float32(mixture: Any, mode: str) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = mixture(**batch(), mixture_mode=mode)
    expected = mixture(**batch(), mixture_mode=mode)
    assert torch.equal(found.gating_probs, expected.gating_probs)
    assert found.logits.dtype == torch.bfloat16
    torch.testing.assert_close(found.logits.float(), expected.logits, atol=0.5, rtol=0.1)
