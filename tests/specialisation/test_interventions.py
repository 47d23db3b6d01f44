"""Interventions: one spelling, refusals by name, exactly undone, and equal to a checkpoint without the experts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.errors import ModelError, UserError
from moe_ray.mixtures.intervening import intervened
from moe_ray.mixtures.interventions import OPERATIONS, Intervention
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.prune_model import prune_in_place
from moe_ray.specialisation.tracing import TracingOptions, trace_texts
from tests.specialisation.families import FAMILIES, NUM_EXPERTS, encoded, loaded, make, rows

WITHOUT_INDICES = {"dbrx"}  # its router returns scores alone
# Rounding of float32 in two layers of random weights.
TOLERANCE = 1e-5


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def under(model: Any, sites: list[RoutingSite], spelling: str, ids: torch.Tensor) -> torch.Tensor:
    with intervened(sites, Intervention.parse(spelling), name="model"):
        return logits(model, ids)


def with_identical_experts(model: Any, sites: list[RoutingSite]) -> None:
    """Give all experts of a layer the weights of the first one."""
    with torch.no_grad():
        for site in sites:
            for parameter in site.experts.parameters():
                if parameter.shape[0] == NUM_EXPERTS:
                    parameter.copy_(parameter[:1].expand_as(parameter))
                else:  # dbrx keeps its experts in one matrix
                    parts = parameter.view(NUM_EXPERTS, -1, parameter.shape[-1])
                    parts.copy_(parts[:1].expand_as(parts))


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("reroute:3@7", "reroute:3@7"),
        (" renormalise:2,1,2 ", "renormalise:1,2"),
        ("zero:0@3,1", "zero:0@1,3"),
        ("swap:4#5", "swap:4#5"),
        ("reroute:1#5", "reroute:1"),
        ("prune:0,5#0", "prune:0,5"),
    ],
)
def test_an_intervention_has_one_spelling(spelling: str, canonical: str) -> None:
    found = Intervention.parse(spelling)
    assert str(found) == canonical
    assert str(Intervention.parse(canonical)) == canonical


@pytest.mark.parametrize("spelling", ["", "reroute", "reroute:", "reroute:a", "drop:1", "zero:1@", "zero:-1", "Zero:1"])
def test_what_is_no_intervention_is_refused(spelling: str) -> None:
    with pytest.raises(UserError, match=r"is not an intervention[\s\S]*reroute:3@7"):
        Intervention.parse(spelling)


@pytest.fixture(scope="module")
def mixtral() -> tuple[Any, list[RoutingSite]]:
    model = make("mixtral")
    return model, sites_of(loaded(model), name="mixtral")


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("zero:1@4", "layer 4 has no experts"),
        ("zero:6", "layer 0 has no expert 6"),
        ("renormalise:1,2", "nothing is left to renormalise[\\s\\S]*use reroute:1,2"),
        ("reroute:0,1,2,3,4", "would keep 1 expert, and selects 2"),
        ("prune:0,1,2,3,4", "would keep 1 expert, and selects 2"),
    ],
)
def test_what_is_not_possible_is_refused(mixtral: tuple[Any, list[RoutingSite]], spelling: str, message: str) -> None:
    model, sites = mixtral
    with pytest.raises(ModelError, match=message):
        under(model, sites, spelling, rows())


def test_an_expert_that_answers_alone_cannot_be_renormalised_away() -> None:
    model = make("mixtral", num_experts_per_tok=1)
    sites = sites_of(loaded(model), name="model")
    with pytest.raises(ModelError, match=r"selects 1 expert: .*\n.*use reroute:1@0"):
        under(model, sites, "renormalise:1@0", rows())
    assert not torch.equal(logits(model, rows()), under(model, sites, "reroute:1", rows()))


def test_a_router_that_selects_within_groups_is_refused() -> None:
    model = make("deepseek_v3", n_group=3, topk_group=2)
    sites = sites_of(loaded(model), name="model")
    for spelling in ("reroute:1", "prune:1"):
        with pytest.raises(ModelError, match="selects within 3 groups of experts"):
            under(model, sites, spelling, rows())
    assert not torch.equal(logits(model, rows()), under(model, sites, "renormalise:1", rows()))


def test_a_router_that_does_not_select_by_rank_is_refused() -> None:
    """A router that selects by a hash of the token, as those of DeepSeek V4's first layers do."""
    model = make("mixtral")
    sites = sites_of(loaded(model), name="model")
    router: Any = sites[0].router

    class Hashed(type(router)):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor) -> Any:
            places = (hidden_states.reshape(-1, 32).sum(dim=-1).abs() * 1e4).long()
            index = torch.stack([places % self.num_experts, (places + 1) % self.num_experts], dim=-1)
            return torch.zeros(len(index), self.num_experts), torch.full(index.shape, 0.5), index

    router.__class__ = Hashed
    with pytest.raises(ModelError, match="does not select experts by rank"):
        under(model, sites, "reroute:1@0", rows())


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> tuple[str, Any, list[RoutingSite]]:
    model = make(request.param)
    return request.param, model, sites_of(loaded(model), name=request.param)


def test_every_operation_changes_the_output_and_is_undone_to_the_last_bit(
    family: tuple[str, Any, list[RoutingSite]],
) -> None:
    name, model, sites = family
    ids, weights = rows(), {key: value.clone() for key, value in model.state_dict().items()}
    before = logits(model, ids)
    for operation in OPERATIONS:
        if operation == "mean":
            continue  # which needs reference texts, as its own tests show
        if name in WITHOUT_INDICES and operation in ("reroute", "prune"):
            with pytest.raises(ModelError, match="does not return which experts it selects"):
                under(model, sites, f"{operation}:1", ids)
        else:
            assert not torch.equal(before, under(model, sites, f"{operation}:1", ids))
        assert torch.equal(before, logits(model, ids))
    assert all(not hooks(module) for site in sites for module in (site.experts, site.router))
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def hooks(module: Any) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


@pytest.mark.parametrize("operation", ["zero", "renormalise", "reroute", "swap", "prune"])
def test_a_removed_expert_is_selected_by_no_token(family: tuple[str, Any, list[RoutingSite]], operation: str) -> None:
    name, model, sites = family
    if name in WITHOUT_INDICES and operation in ("reroute", "prune"):
        pytest.skip("refused, as another test shows")
    texts = encoded(rows().tolist(), num_masked=0)
    plain = list(trace_texts(loaded(model), sites, texts, TracingOptions()))
    with intervened(sites, Intervention.parse(f"{operation}:1"), name=name):
        changed = list(trace_texts(loaded(model), sites, texts, TracingOptions()))
    for before, after in zip(plain, changed, strict=True):
        first_before, first_after = before.layers[0], after.layers[0]
        assert first_before.selected.sum() == first_after.selected.sum()
        assert all(layer.mass[1] == 0 for layer in after.layers)
        if operation in ("renormalise", "reroute", "swap"):  # what a token's experts weigh together stays
            assert first_after.mass.sum() == pytest.approx(first_before.mass.sum(), rel=1e-5)
        if operation == "zero":
            others = [expert for expert in range(NUM_EXPERTS) if expert != 1]
            assert first_after.mass[others] == pytest.approx(first_before.mass[others])


def test_identical_experts_can_be_removed_without_effect(family: tuple[str, Any, list[RoutingSite]]) -> None:
    name, _, _ = family
    model = make(name)
    sites = sites_of(loaded(model), name=name)
    with_identical_experts(model, sites)
    before = logits(model, rows())
    for operation in ("renormalise", "reroute", "swap"):
        if not (name in WITHOUT_INDICES and operation == "reroute"):
            assert (under(model, sites, f"{operation}:1", rows()) - before).abs().max() <= TOLERANCE, operation
    # Least where the layer's answer is normalised after the experts, as in flex_olmo.
    assert (under(model, sites, "zero:1", rows()) - before).abs().max() > 10 * TOLERANCE


@contextmanager
def quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield


def test_prune_is_a_checkpoint_without_the_experts_to_the_last_bit(
    family: tuple[str, Any, list[RoutingSite]], tmp_path: Path
) -> None:
    name, model, sites = family
    if name in WITHOUT_INDICES:
        pytest.skip("refused, as another test shows")
    ids = rows()
    expected = [under(model, sites, spelling, ids) for spelling in ("prune:1", "prune:0,4")]
    with quiet():
        for removed, wanted in zip(([1], [0, 4]), expected, strict=True):
            copy = make(name)
            pruned = prune_in_place(copy, sites_of(loaded(copy), name=name), removed, name=name)
            assert (pruned.num_experts, pruned.num_kept) == (NUM_EXPERTS, NUM_EXPERTS - len(removed))
            copy.save_pretrained(tmp_path / str(len(removed)))
            read = transformers.AutoModelForCausalLM.from_pretrained(
                tmp_path / str(len(removed)), dtype=torch.float32, trust_remote_code=False
            ).eval()
            assert (logits(read, ids) - wanted).abs().max() == 0.0


def test_reroute_is_prune_where_the_weights_of_the_selected_experts_are_normalised() -> None:
    for name, is_same in (("mixtral", True), ("gpt_oss", True), ("olmoe", False), ("jamba", False)):
        model = make(name)
        sites = sites_of(loaded(model), name=name)
        difference = under(model, sites, "reroute:1@0", rows()) - under(model, sites, "prune:1@0", rows())
        assert (float(difference.abs().max()) <= TOLERANCE) == is_same, name
