"""A mixture of identical experts is the dense model, whatever its gates say."""

from pathlib import Path

import pytest
import torch
import transformers

from tests.architectures.own import CASES, ODD_CASES, Case, mixture_of, tokens

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")


@pytest.mark.parametrize("name", ODD_CASES)
def test_identical_experts_give_the_dense_logits_before_and_after_a_reload(name: str, tmp_path: Path) -> None:
    dense = ODD_CASES[name].dense()
    mixture = mixture_of(ODD_CASES[name], dense, mlp_only_layers=[1])
    ids, mask = tokens()
    mixture.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = dense(ids, attention_mask=mask).logits[mask.bool()]
        for implementation in IMPLEMENTATIONS:
            mixture.set_experts_implementation(implementation)
            found = mixture(ids, attention_mask=mask).logits[mask.bool()]
            loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation=implementation)
            assert loaded.config._experts_implementation == implementation
            assert torch.equal(loaded(ids, attention_mask=mask).logits[mask.bool()], found)
            assert (found - expected).abs().max() < 1e-5
    assert expected.abs().max() > 1


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_identical_experts_per_token_is_exact(name: str, top_k: int) -> None:
    dense = CASES[name].dense()
    mixture = mixture_of(CASES[name], dense, num_experts_per_tok=top_k)
    ids, _ = tokens()
    with torch.no_grad():
        assert (mixture(ids).logits - dense(ids).logits).abs().max() < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_without_renormalisation_the_weights_are_the_gates_own_probabilities(name: str) -> None:
    mixture = mixture_of(CASES[name], CASES[name].dense(), norm_topk_prob=False)
    layer = next(module for module in mixture.modules() if hasattr(module, "gate"))
    states = torch.randn(5, mixture.config.hidden_size)
    logits, weights, chosen = layer.gate(states)
    probabilities = (states @ layer.gate.weight.T).softmax(-1)
    torch.testing.assert_close(weights, probabilities.gather(1, chosen))
    assert (weights.sum(-1) < 1).all()
    torch.testing.assert_close(logits.softmax(-1), probabilities)


@pytest.mark.parametrize("name", CASES)
def test_experts_of_other_models_are_mixed_by_the_gate_as_the_definition_says(name: str) -> None:
    case = CASES[name]
    sources = [case.dense(seed) for seed in range(3)]
    mixture = mixture_of(case, *sources, num_experts_per_tok=2)
    layer = next(module for module in mixture.modules() if hasattr(module, "gate"))
    states = torch.randn(7, mixture.config.hidden_size)
    with torch.no_grad():
        answers = torch.stack([_network(case, source, states) for source in sources])
        probabilities = (states @ layer.gate.weight.T).softmax(-1)
        expected = torch.zeros_like(states)
        for token, row in enumerate(probabilities):
            first, second = sorted(range(3), key=lambda expert: -row[expert])[:2]
            total = row[first] + row[second]
            expected[token] = (row[first] * answers[first, token] + row[second] * answers[second, token]) / total
        for implementation in IMPLEMENTATIONS:
            mixture.set_experts_implementation(implementation)
            torch.testing.assert_close(layer(states), expected, rtol=1e-5, atol=1e-4)


def _network(case: Case, source: transformers.PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    layer = source.get_submodule(f"{case.layers}.0")
    act = transformers.activations.ACT2FN[source.config.activation_function]
    answer: torch.Tensor = layer.get_submodule(case.down)(act(layer.get_submodule(case.up)(states)))
    return answer


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_stays_as_close_as_the_dense_model_is_to_itself_in_float32(name: str) -> None:
    dense = CASES[name].dense()
    exact = dense(tokens()[0]).logits
    mixture = mixture_of(CASES[name], dense).to(torch.bfloat16)
    rounded = dense.to(torch.bfloat16)
    with torch.no_grad():
        found = mixture(tokens()[0]).logits
        own_error = (rounded(tokens()[0]).logits.float() - exact).abs().max()
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().max() < 2 * own_error
