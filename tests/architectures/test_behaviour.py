"""What one expects of any causal model: cache, batches, padding, beams, training, and one expert alone on request."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from moe_ray.architectures.experts import load_balancing_loss, token_mask, z_loss
from tests.architectures.own import CASES, NUM_EXPERTS, Case, mixture_of, tokens

GREEDY: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def mixture(case: Case) -> Any:
    """Experts of three models, the middle layer dense."""
    return mixture_of(case, *(case.dense(seed) for seed in range(NUM_EXPERTS)), mlp_only_layers=[1])


def test_identical_experts_generate_the_dense_models_tokens_greedily_and_with_beams(case: Case) -> None:
    dense = case.dense()
    mixture = mixture_of(case, dense)
    ids, mask = tokens()
    for how in (GREEDY, GREEDY | {"num_beams": 3}):
        expected = dense.generate(ids, attention_mask=mask, **how)
        assert mixture.generate(ids, attention_mask=mask, **how).tolist() == expected.tolist()


def test_cache_padding_and_batch_change_nothing(mixture: Any) -> None:
    ids, mask = tokens()
    together = mixture.generate(ids, attention_mask=mask, **GREEDY)
    assert mixture.generate(ids, attention_mask=mask, use_cache=False, **GREEDY).tolist() == together.tolist()
    for row, unpadded in enumerate((ids[:1, 4:], ids[1:])):
        alone = mixture.generate(unpadded, attention_mask=torch.ones_like(unpadded), **GREEDY)
        assert alone[0, unpadded.shape[1] :].tolist() == together[row, ids.shape[1] :].tolist()


def test_token_by_token_logits_are_those_of_the_whole_text(mixture: Any) -> None:
    ids, _ = tokens()
    with torch.no_grad():
        whole = mixture(ids).logits
        cache, steps = None, []
        for position in range(ids.shape[1]):
            output = mixture(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-4)


def test_gate_logits_come_with_a_cache_and_a_mask_and_count_only_the_new_tokens(mixture: Any) -> None:
    ids, mask = tokens()
    mixture.config.output_router_logits = True
    with torch.no_grad():
        first = mixture(ids[:, :6], attention_mask=mask[:, :6], use_cache=True)
        then = mixture(ids[:, 6:], attention_mask=mask, past_key_values=first.past_key_values)
    assert [tuple(one.shape) for one in first.router_logits] == [(12, NUM_EXPERTS)] * 2
    assert [tuple(one.shape) for one in then.router_logits] == [(10, NUM_EXPERTS)] * 2
    assert torch.isfinite(then.aux_loss)
    assert torch.isfinite(then.z_loss)
    mixture.generate(ids, attention_mask=mask, **GREEDY)
    assert mixture(ids, output_router_logits=False).router_logits is None


def test_one_expert_answers_alone_as_the_model_that_it_came_from(case: Case) -> None:
    """With the first model's everything else, an expert alone is that model with the expert's networks."""
    sources = [case.dense(seed) for seed in range(NUM_EXPERTS)]
    mixture = mixture_of(case, *sources)
    ids, mask = tokens()
    for expert, source in enumerate(sources):
        alone = case.dense()
        alone.load_state_dict(alone.state_dict() | _networks(case, source))
        with torch.no_grad():
            found = mixture(ids, attention_mask=mask, forced_expert=expert).logits[mask.bool()]
            expected = alone(ids, attention_mask=mask).logits[mask.bool()]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        for how in (GREEDY, GREEDY | {"num_beams": 2}):
            text = mixture.generate(ids, attention_mask=mask, forced_expert=expert, **how)
            assert text.tolist() == alone.generate(ids, attention_mask=mask, **how).tolist()
    assert not torch.allclose(mixture(ids).logits, mixture(ids, forced_expert=0).logits)


def _networks(case: Case, source: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in source.state_dict().items() if case.up in name or case.down in name}


@pytest.mark.parametrize("expert", [-1, NUM_EXPERTS])
def test_an_expert_that_is_not_there_is_refused(mixture: Any, expert: int) -> None:
    with pytest.raises(ValueError, match=f"forced_expert is {expert}, but the experts are 0 to 2"):
        mixture(tokens()[0], forced_expert=expert)


def test_an_expert_alone_has_no_gate_losses(mixture: Any) -> None:
    ids, _ = tokens()
    output = mixture.train()(ids, labels=ids, forced_expert=1, output_router_logits=True)
    assert output.router_logits is None
    assert output.aux_loss is None
    output.loss.backward()
    gates = [value.grad for name, value in mixture.named_parameters() if "gate.weight" in name]
    assert gates == [None, None]
    experts = [value.grad for name, value in mixture.named_parameters() if name.endswith("experts.up_proj")]
    assert all(grad[1].any() and not grad[0].any() and not grad[2].any() for grad in experts)


def test_the_loss_gains_the_gates_losses_of_each_layer_only_in_training(mixture: Any) -> None:
    ids, mask = tokens()
    labels = ids.masked_fill(mask == 0, -100)
    mixture.config.router_aux_loss_coef, mixture.config.router_z_loss_coef = 0.5, 0.25
    without_dropout(mixture)
    plain = mixture.eval()(ids, attention_mask=mask, labels=labels)
    trained = mixture.train()(ids, attention_mask=mask, labels=labels)
    assert plain.aux_loss is None
    looked_at = mixture.eval()(ids, attention_mask=mask, labels=labels, output_router_logits=True)
    assert looked_at.loss == plain.loss
    flat = mask.reshape(-1)
    balancing = [load_balancing_loss_func((one,), NUM_EXPERTS, 2, mask) for one in trained.router_logits]
    z_losses = [router_z_loss_func(one[flat.bool()][None]) for one in trained.router_logits]
    expected = plain.loss + 0.5 * sum(balancing) / 2 + 0.25 * sum(z_losses) / 2
    torch.testing.assert_close(trained.loss, expected)
    mixture.config.router_aux_loss_coef = mixture.config.router_z_loss_coef = 0.0
    assert mixture.train()(ids, attention_mask=mask, labels=labels).router_logits is None


def without_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def test_layers_that_each_collapse_onto_another_expert_are_not_balanced() -> None:
    """Pooled over layers, as transformers does it, this looks perfect."""
    collapsed = tuple(torch.full((8, 3), -9.0).index_fill(1, torch.tensor([expert]), 9.0) for expert in range(3))
    assert load_balancing_loss_func(collapsed, 3, 1).item() == pytest.approx(1.0)
    assert all(load_balancing_loss(one, 1).item() == pytest.approx(3.0) for one in collapsed)


def test_padding_counts_in_no_loss() -> None:
    logits = torch.randn(10, 4)
    mask = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0, 1, 1])
    torch.testing.assert_close(load_balancing_loss(logits, 2, mask), load_balancing_loss(logits[mask.bool()], 2))
    torch.testing.assert_close(z_loss(logits, mask), z_loss(logits[mask.bool()]))
    assert load_balancing_loss(logits, 2, torch.zeros(10)).item() == 0.0


def test_a_mask_of_another_form_says_nothing_of_padding() -> None:
    assert token_mask(torch.ones(2, 1, 5, 5), 2, 5) is None
    assert token_mask({"full_attention": None}, 2, 5) is None
    assert token_mask(torch.tensor([[0, 1, 1], [1, 1, 0]]), 2, 2).tolist() == [1, 1, 1, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_every_gate_learns_from_the_models_loss_alone(case: Case, top_k: int, implementation: str) -> None:
    sources = [case.dense(seed) for seed in range(NUM_EXPERTS)]
    mixture = mixture_of(case, *sources, num_experts_per_tok=top_k, router_aux_loss_coef=0.0)
    mixture.set_experts_implementation(implementation)
    ids, _ = tokens()
    mixture(ids, labels=ids).loss.backward()
    grads = [value.grad for name, value in mixture.named_parameters() if "gate.weight" in name]
    assert len(grads) == 3
    assert all(grad.abs().max() > 1e-6 for grad in grads)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(case: Case, reentrant: bool) -> None:
    mixture = mixture_of(case, case.dense(0), case.dense(1), router_aux_loss_coef=0.0 if reentrant else 0.5)
    without_dropout(mixture)
    mixture.train()
    expected = _gradients(mixture)
    mixture.activation_checkpointing_enable({"use_reentrant": reentrant})
    found = _gradients(mixture)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5)


def test_gate_losses_that_could_not_reach_the_gates_are_refused(mixture: Any) -> None:
    mixture.train().activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=False"):
        _gradients(mixture)
    for name, parameter in mixture.named_parameters():
        parameter.requires_grad_("gate.weight" not in name)
    assert _gradients(mixture)


def test_an_expert_alone_is_trained_under_gradient_checkpointing_too(mixture: Any) -> None:
    without_dropout(mixture)
    mixture.train()
    expected = _gradients(mixture, forced_expert=2)
    mixture.activation_checkpointing_enable()
    for name, grad in _gradients(mixture, forced_expert=2).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5)


def _gradients(model: Any, **more: Any) -> dict[str, torch.Tensor]:
    ids, mask = tokens()
    model.zero_grad()
    model(ids, attention_mask=mask, labels=ids, use_cache=False, **more).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_under_autocast_the_gate_still_reckons_in_float32(mixture: Any) -> None:
    ids, _ = tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        output = mixture(ids, output_router_logits=True)
    assert {one.dtype for one in output.router_logits} == {torch.float32}
    layer = next(module for module in mixture.modules() if hasattr(module, "gate"))
    states = torch.randn(4, mixture.config.hidden_size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under, _, _ = layer.gate(states)
    assert torch.equal(under, layer.gate(states)[0])


def test_hidden_states_and_attentions_are_the_dense_models(case: Case) -> None:
    dense = case.dense()
    dense.set_attn_implementation("eager")
    mixture = mixture_of(case, dense)
    mixture.set_attn_implementation("eager")
    ids, _ = tokens()
    with torch.no_grad():
        expected = dense(ids, output_hidden_states=True, output_attentions=True)
        found = mixture(ids, output_hidden_states=True, output_attentions=True)
    for field in ("hidden_states", "attentions"):
        assert len(found[field]) == len(expected[field])
        for ours, theirs in zip(found[field], expected[field], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_embeddings_may_be_given_and_logits_kept_of_the_last_tokens_only(mixture: Any) -> None:
    ids, _ = tokens()
    with torch.no_grad():
        whole = mixture(ids).logits
        embedded = mixture(inputs_embeds=mixture.get_input_embeddings()(ids)).logits
        last = mixture(ids, logits_to_keep=2).logits
        as_tuple = mixture(ids, return_dict=False)
    torch.testing.assert_close(embedded, whole)
    torch.testing.assert_close(last, whole[:, -2:])
    assert torch.equal(as_tuple[0], whole)


def test_a_fresh_mixture_is_spread_as_the_dense_model_and_its_embeddings_are_tied(case: Case) -> None:
    mixture = mixture_of(case, case.dense())
    torch.manual_seed(0)
    dense, fresh = case.dense(), type(mixture)(mixture.config)
    assert fresh.get_output_embeddings().weight is fresh.get_input_embeddings().weight
    for name, value in fresh.named_parameters():
        assert torch.isfinite(value).all(), name
        if ".experts." in name and name.endswith("bias"):
            assert not value.any(), name
        elif ".experts." in name:
            layer, role = name.split(".mlp.experts.")
            own = dense.get_submodule(f"{layer}.{case.up if role == 'up_proj' else case.down}").weight
            assert value.std().item() == pytest.approx(own.std().item(), rel=0.15), name
        elif name.endswith("gate.weight"):
            assert value.std().item() == pytest.approx(0.25, rel=0.3), name


def test_threads_that_ask_different_experts_do_not_disturb_each_other(mixture: Any) -> None:
    ids, _ = tokens()
    asked = [0, 1, 2, None] * 6

    def logits(expert: int | None) -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = mixture(ids, forced_expert=expert, output_router_logits=True).logits
        return output

    expected = {expert: logits(expert) for expert in asked}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for expert, found in zip(asked, pool.map(logits, asked), strict=True):
            assert torch.equal(found, expected[expert])
