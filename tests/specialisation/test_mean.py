"""The operation mean: an expert's answers are replaced by their mean over reference texts."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.errors import ModelError
from moe_ray.mixtures.intervening import intervened
from moe_ray.mixtures.interventions import Intervention
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.mean_answers import mean_answers
from tests.specialisation.families import FAMILIES, NUM_EXPERTS, loaded, make, rows

# Families whose experts are down(silu(gate(x)) * up(x)) in two tensors, so that a plain formula is short.
PLAIN = ["mixtral", "olmoe", "qwen3_moe", "deepseek_v3", "granitemoe"]
TOLERANCE = 1e-5


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def means_of(model: Any, sites: list[RoutingSite], reference: torch.Tensor) -> list[torch.Tensor]:
    passes = [lambda row=row: logits(model, row[None]) for row in reference]
    return [one.answers_EH for one in mean_answers(sites, passes)]


def answer(experts: Any, expert: int, state: torch.Tensor) -> torch.Tensor:
    """The plain formula of one expert and one token."""
    gate, up = F.linear(state, experts.gate_up_proj[expert]).chunk(2)
    plain: torch.Tensor = F.linear(F.silu(gate) * up, experts.down_proj[expert])
    return plain


class SlowExperts:
    """Experts as a loop over tokens and their selections; `means` stand in for the answers of some experts."""

    def __init__(self, experts: Any, means: dict[int, torch.Tensor]) -> None:
        self.experts, self.means = experts, means
        self.answers: dict[int, list[torch.Tensor]] = {}

    def __call__(self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: Any) -> torch.Tensor:
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        mixed = torch.zeros_like(flat)
        for token, (chosen, weights) in enumerate(zip(top_k_index.tolist(), top_k_weights, strict=True)):
            for place, expert in enumerate(chosen):
                own = answer(self.experts, expert, flat[token])
                self.answers.setdefault(expert, []).append(own)
                mixed[token] += weights[place] * self.means.get(expert, own)
        return mixed.reshape(hidden_states.shape)


def slowly(model: Any, site: RoutingSite, ids: torch.Tensor, means: dict[int, torch.Tensor]) -> tuple[Any, SlowExperts]:
    slow = SlowExperts(site.experts, means)
    site.experts.forward = slow
    try:
        return logits(model, ids), slow
    finally:
        del site.experts.forward


@pytest.mark.parametrize("family", PLAIN)
def test_it_is_a_slow_loop_with_the_mean_in_place_of_the_experts_answer(family: str) -> None:
    model = make(family)
    sites = sites_of(loaded(model), name=family)
    reference, ids = rows(4, seed=5), rows()
    means = means_of(model, sites, reference)
    found: dict[int, list[torch.Tensor]] = {}
    for row in reference:
        _, slow = slowly(model, sites[1], row[None], {})
        for expert, answers in slow.answers.items():
            found.setdefault(expert, []).extend(answers)
    for expert, answers in found.items():
        plain = torch.stack(answers).double().mean(dim=0)
        assert (means[1][expert] - plain).abs().max() <= TOLERANCE
    own = {expert: means[1][expert].float() for expert in (1, 4)}
    expected, _ = slowly(model, sites[1], ids, own)
    layer = sites[1].record.layer
    with intervened(sites, Intervention.parse(f"mean:1,4@{layer}"), name=family, means=means):
        changed = logits(model, ids)
    assert (changed - expected).abs().max() <= TOLERANCE
    assert (changed - logits(model, ids)).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_means_of_zero_are_the_operation_zero(family: str) -> None:
    model = make(family)
    sites = sites_of(loaded(model), name=family)
    nothing = [torch.zeros(site.record.num_experts, 32, dtype=torch.float64) for site in sites]
    found = []
    for operation in ("mean", "zero"):
        with intervened(sites, Intervention.parse(f"{operation}:1"), name=family, means=nothing):
            found.append(logits(model, rows()))
    assert torch.equal(*found)


def test_an_expert_that_always_answers_the_same_can_be_replaced_by_its_mean() -> None:
    """With a bias alone, as gpt-oss has, the answer is the same for each token."""
    model = make("gpt_oss")
    sites = sites_of(loaded(model), name="gpt_oss")
    with torch.no_grad():
        for site in sites:
            experts: Any = site.experts
            experts.down_proj[1] = 0
            experts.down_proj_bias[1] = torch.randn(32, generator=torch.Generator().manual_seed(1))
    means = means_of(model, sites, rows(4, seed=5))
    before = logits(model, rows())
    changes = {}
    for operation in ("mean", "zero"):
        with intervened(sites, Intervention.parse(f"{operation}:1"), name="m", means=means):
            changes[operation] = float((logits(model, rows()) - before).abs().max())
    assert changes["mean"] <= TOLERANCE
    assert changes["zero"] > 100 * TOLERANCE


def test_an_expert_that_no_text_selects_has_no_mean_and_counts_zero() -> None:
    model = make("mixtral")
    sites = sites_of(loaded(model), name="mixtral")
    (first, *_) = mean_answers(sites, [lambda: logits(model, rows(1, 2))])
    assert first.counts_E.sum() == 2 * 2
    without = [expert for expert in range(NUM_EXPERTS) if first.counts_E[expert] == 0]
    assert without
    assert not first.answers_EH[without].any()


def test_it_needs_reference_texts() -> None:
    model = make("mixtral")
    sites = sites_of(loaded(model), name="mixtral")
    with (
        pytest.raises(ModelError, match=r"mean needs the experts' mean answers[\s\S]*ablate --operation mean"),
        intervened(sites, Intervention.parse("mean:1"), name="m"),
    ):
        pass
