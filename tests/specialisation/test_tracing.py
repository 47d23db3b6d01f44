"""What is traced does not depend on padding, order or batches, and answers of experts are measured as they are."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from moe_ray import architectures
from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.records import SUMS
from moe_ray.specialisation.sampling import ExpertSampler, expert_outputs, weight_cosines
from moe_ray.specialisation.tokens import EncodedText
from moe_ray.specialisation.tracing import TracingOptions, trace_texts
from moe_ray.specialisation.writing import TextTrace
from tests.architectures.own import CASES, mixture_of
from tests.specialisation.families import NUM_EXPERTS, encoded, loaded, make

LENGTHS = (5, 17, 9, 12, 3, 30)


@pytest.fixture(scope="module")
def model() -> Any:
    return make("mixtral")


@pytest.fixture(scope="module")
def sites(model: Any) -> list[RoutingSite]:
    return sites_of(loaded(model), name="mixtral")


@pytest.fixture(scope="module")
def texts() -> list[EncodedText]:
    generator = torch.Generator().manual_seed(5)
    return encoded([torch.randint(3, 128, (length,), generator=generator).tolist() for length in LENGTHS])


def traced(model: Any, sites: list[RoutingSite], texts: list[EncodedText], **options: Any) -> dict[str, TextTrace]:
    found = trace_texts(loaded(model), sites, texts, TracingOptions(**options))
    return {text.text_id: text for text in found}


def same(one: TextTrace, other: TextTrace) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)
        for a, b in zip(one.layers, other.layers, strict=True)
        for name in ("selected", "mass", "sums", "squares")
    )


def test_read_one_at_a_time_a_text_gives_the_same_bits_in_any_order(
    model: Any, sites: list[RoutingSite], texts: list[EncodedText]
) -> None:
    forwards, backwards = traced(model, sites, texts), traced(model, sites, texts[::-1])
    assert forwards.keys() == backwards.keys()
    assert all(same(forwards[text_id], backwards[text_id]) for text_id in forwards)


@pytest.mark.parametrize("batch_size", [2, 6])
def test_padding_and_batches_change_no_count(
    model: Any, sites: list[RoutingSite], texts: list[EncodedText], batch_size: int
) -> None:
    alone, together = traced(model, sites, texts), traced(model, sites, texts, batch_size=batch_size)
    for text_id, text in alone.items():
        assert together[text_id].num_tokens == text.num_tokens == len(texts[int(text_id)].token_ids) - 1
        for a, b in zip(text.layers, together[text_id].layers, strict=True):
            assert (a.selected == b.selected).all()
            assert b.mass == pytest.approx(a.mass, rel=1e-5)
            assert b.sums == pytest.approx(a.sums, rel=1e-4, abs=1e-5)


def test_only_tokens_that_count_are_counted(model: Any, sites: list[RoutingSite]) -> None:
    ids = [[5, 6, 7, 8, 9, 10]]
    whole = traced(model, sites, encoded(ids, num_masked=0), with_tokens=True)["000"]
    masked = traced(model, sites, encoded(ids, num_masked=2), with_tokens=True)["000"]
    assert (whole.num_tokens, whole.num_masked, masked.num_tokens, masked.num_masked) == (6, 0, 4, 2)
    assert whole.tokens is not None
    assert masked.tokens is not None
    assert masked.tokens.token_ids.tolist() == ids[0][2:]
    assert (masked.tokens.experts == whole.tokens.experts[2:]).all()
    for at, layer in enumerate(masked.layers):
        expected = np.bincount(whole.tokens.experts[2:, at].ravel(), minlength=NUM_EXPERTS)
        assert (layer.selected == expected).all()


def test_entropies_and_margins_are_those_of_the_routers_logits(model: Any, sites: list[RoutingSite]) -> None:
    ids = list(range(10, 30))
    text = traced(model, sites, encoded([ids], num_masked=0))["000"]
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_router_logits=True, use_cache=False)
    for layer, logits in zip(text.layers, output.router_logits, strict=True):
        p = torch.softmax(logits.double(), dim=-1)
        ordered = p.sort(dim=-1, descending=True).values
        entropy = -(p * p.log2()).sum(dim=-1)
        weights = ordered[:, :2] / ordered[:, :2].sum(dim=-1, keepdim=True)
        expected = {
            "entropy": entropy,
            "weight_entropy": -(weights * weights.log2()).sum(dim=-1),
            "set_margin": ordered[:, 1] - ordered[:, 2],
            "top_margin": ordered[:, 0] - ordered[:, 1],
            "top_probability": ordered[:, 0],
        }
        for name, values in expected.items():
            assert layer.sums[SUMS.index(name)] == pytest.approx(float(values.sum()), rel=1e-5)
            assert layer.squares[SUMS.index(name)] == pytest.approx(float((values**2).sum()), rel=1e-5)


def plain_answer(experts: Any, expert: int, hidden: torch.Tensor) -> torch.Tensor:
    """One expert of Mixtral, written out."""
    gate, up = (hidden @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
    answer: torch.Tensor = (torch.nn.functional.silu(gate) * up) @ experts.down_proj[expert].T
    return answer


@torch.inference_mode()
def test_an_expert_alone_answers_as_its_matrices_say(model: Any, sites: list[RoutingSite]) -> None:
    hidden = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    answers = expert_outputs(sites[0].experts, NUM_EXPERTS, hidden)
    for expert, answer in enumerate(answers):
        assert answer == pytest.approx(plain_answer(sites[0].experts, expert, hidden).double().numpy(), abs=1e-5)


def test_the_saliency_is_the_sum_of_weights_times_lengths(model: Any, sites: list[RoutingSite]) -> None:
    ids = list(range(10, 25))
    text = traced(model, sites, encoded([ids], num_masked=1), with_norms=True)["000"]
    seen: list[tuple[torch.Tensor, ...]] = []
    handle = sites[1].experts.register_forward_pre_hook(lambda _module, given: seen.append(given))
    with torch.inference_mode():
        model(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
        hidden, index, weights = seen[0]
        gated, plain = np.zeros(NUM_EXPERTS), np.zeros(NUM_EXPERTS)
        for token in range(1, len(ids)):
            for expert, weight in zip(index[token].tolist(), weights[token].tolist(), strict=True):
                length = float(plain_answer(sites[1].experts, expert, hidden[token]).norm())
                plain[expert] += length
                gated[expert] += weight * length
    assert text.layers[1].norms["norm"] == pytest.approx(plain, rel=1e-4)
    assert text.layers[1].norms["gated_norm"] == pytest.approx(gated, rel=1e-4)


def test_equal_experts_are_similar_and_others_are_not(texts: list[EncodedText]) -> None:
    model = make("mixtral")
    sites = sites_of(loaded(model), name="mixtral")
    experts: Any = sites[0].experts
    with torch.no_grad():
        experts.gate_up_proj[1] = experts.gate_up_proj[0]
        experts.down_proj[1] = 2 * experts.down_proj[0]
    sampler = ExpertSampler(sites, texts)
    with sampler.sampling():
        traced(model, sites, texts)
    rows = {(row["layer"], row["a"], row["b"]): row for row in sampler.table().to_pylist()}
    assert len(rows) == 2 * NUM_EXPERTS * (NUM_EXPERTS - 1) // 2
    assert rows[0, 0, 1]["outputs"] == pytest.approx(1, abs=1e-6)
    assert rows[0, 0, 1]["weights"] > 0.9
    others = [abs(row["weights"]) for key, row in rows.items() if key != (0, 0, 1)]
    assert max(others) < 0.2
    assert weight_cosines(experts, NUM_EXPERTS)[2, 2] == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(CASES))
def test_mixtures_of_our_own_classes_are_traced(name: str) -> None:
    case = CASES[name]
    model = mixture_of(case, *(case.dense(seed) for seed in (1, 2, 3)))
    sites = sites_of(loaded(model), name=name)
    assert [site.record.layer for site in sites] == [0, 1, 2]
    assert {site.record.scores for site in sites} == {"softmax"}
    ids = list(range(3, 15))
    (text,) = trace_texts(loaded(model), sites, encoded([ids], num_masked=0), TracingOptions())
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_router_logits=True, use_cache=False)
    for layer, logits in zip(text.layers, output.router_logits, strict=True):
        expected = torch.bincount(logits.topk(2, dim=-1).indices.ravel(), minlength=3)
        assert layer.selected.tolist() == expected.tolist()


def test_layers_that_stay_dense_are_left_out() -> None:
    case = CASES["gpt2"]
    model = mixture_of(case, case.dense(1), mlp_only_layers=[1])
    assert [site.record.layer for site in sites_of(loaded(model), name="gpt2")] == [0, 2]


def test_one_expert_per_token_has_a_softmax_and_no_choice_of_weights() -> None:
    architectures.register()
    model = make("mixtral", num_experts_per_tok=1)
    sites = sites_of(loaded(model), name="mixtral")
    assert {(site.record.top_k, site.record.scores) for site in sites} == {(1, "softmax")}
    assert isinstance(model, transformers.MixtralForCausalLM)
