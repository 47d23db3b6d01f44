"""Every native family: what is traced is what its router selected, and tracing changes no bit of its output."""

from typing import Any

import numpy as np
import pytest
import torch

from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.errors import ModelError
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.records import SUMS
from moe_ray.specialisation.tracing import TracingOptions, collected, trace_texts
from tests.specialisation.families import NUM_EXPERTS, TOP_K, TRACED, encoded, loaded, make, rows

SIGMOID = {
    "deepseek_v3",
    "glm4_moe",
    "dots1",
    "minimax_m2",
    "lfm2_moe",
    "afmoe",
    "solar_open",
    "exaone_moe",
    "deepseek_v32",
    "bailing_hybrid",
}
WITHOUT_INDICES = {"dbrx"}  # its router returns scores alone
KINDS = dict.fromkeys(SIGMOID, "sigmoid") | {"deepseek_v4": "sqrtsoftplus", "gemma4_text": "probabilities"}
NEVER_ALONE = {"longcat_flash"}  # its experts cannot be called with one expert per token
HASHED = {"deepseek_v4"}  # a table says which experts a token gets, whatever its scores
UNKNOWN = {"phimoe"}  # its weights are those of a sparse mixer, over other experts for each choice


Tokens = list[tuple[list[int], list[float]]]


class SlowCount:
    """Keeps each token's experts and weights, as the routers return them and as the experts are given them."""

    def __init__(self, model: Any) -> None:
        self.returned: list[Tokens] = []
        self.given: list[Tokens] = []
        self._handles = [module.register_forward_hook(self._hook) for module in model.modules()]

    def _hook(self, module: Any, given: Any, output: Any) -> None:
        if type(module).__name__.endswith("Experts") and len(given) == 3:
            self.given.append(list(zip(given[1].tolist(), given[2].tolist(), strict=True)))
        of_three = isinstance(output, tuple) and len(output) == 3
        if of_three and isinstance(output[2], torch.Tensor) and not output[2].is_floating_point():
            self.returned.append(list(zip(output[2].tolist(), output[1].tolist(), strict=True)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def counted(tokens: Tokens) -> list[int]:
    return [sum(experts.count(expert) for experts, _ in tokens) for expert in range(NUM_EXPERTS)]


def summed(tokens: Tokens) -> list[float]:
    pairs = [pair for experts, weights in tokens for pair in zip(experts, weights, strict=True)]
    return [sum(weight for chosen, weight in pairs if chosen == expert) for expert in range(NUM_EXPERTS)]


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@pytest.fixture(scope="module", params=sorted(TRACED))
def family(request: pytest.FixtureRequest) -> tuple[str, Any, list[RoutingSite]]:
    model = make(request.param)
    return request.param, model, sites_of(loaded(model), name=request.param)


def test_every_layer_is_found_with_its_router(family: tuple[str, Any, list[RoutingSite]]) -> None:
    name, _, sites = family
    expected = "unknown" if name in UNKNOWN else KINDS.get(name, "softmax")
    assert [(site.record.layer, site.record.num_experts, site.record.top_k) for site in sites] == [
        (0, NUM_EXPERTS, TOP_K),
        (1, NUM_EXPERTS, TOP_K),
    ]
    assert {site.record.scores for site in sites} == {expected}
    assert all(site.router is not None for site in sites)


def test_the_sums_are_those_of_a_slow_count(family: tuple[str, Any, list[RoutingSite]]) -> None:
    name, model, sites = family
    ids = rows().tolist()
    for text, row in zip(trace_texts(loaded(model), sites, encoded(ids), TracingOptions()), ids, strict=True):
        slow = SlowCount(model)
        logits(model, torch.tensor([row]))
        slow.remove()
        assert len(slow.returned) == (0 if name in WITHOUT_INDICES else 2)
        assert len(slow.given) == 2
        for seen in (slow.returned, slow.given):
            for layer, tokens in zip(text.layers, seen, strict=False):
                assert layer.selected.tolist() == counted(tokens[1:])
                assert layer.mass == pytest.approx(summed(tokens[1:]), rel=1e-6)


def test_tracing_changes_no_bit_of_the_output(family: tuple[str, Any, list[RoutingSite]]) -> None:
    name, model, sites = family
    ids = rows()
    before = logits(model, ids)
    with collected(sites, np.ones(ids.numel(), dtype=np.bool_), with_norms=name not in NEVER_ALONE) as batch:
        during = logits(model, ids)
    assert len(batch.routed) == 2
    assert torch.equal(before, during)
    assert torch.equal(before, logits(model, ids))


def test_the_probabilities_are_those_that_the_router_selects_by(family: tuple[str, Any, list[RoutingSite]]) -> None:
    name, model, sites = family
    (text,) = trace_texts(loaded(model), sites, encoded(rows(1).tolist()), TracingOptions())
    for layer in text.layers:
        means = dict(zip(SUMS, layer.sums / text.num_tokens, strict=True))
        assert 0 <= means["weight_entropy"] <= 1
        if name in UNKNOWN:
            assert np.isnan(means["entropy"])
            continue
        assert 0 < means["entropy"] <= np.log2(NUM_EXPERTS)
        assert 0 < means["top_margin"] < 1
        # No bias here that would select by anything else than the scores.
        assert means["set_margin"] > 0 or name in HASHED
        assert 1 / NUM_EXPERTS <= means["top_probability"] <= 1


def test_experts_that_cannot_run_alone_are_one_message() -> None:
    model = make("longcat_flash")
    texts = trace_texts(
        loaded(model), sites_of(loaded(model), name="x"), encoded(rows(1).tolist()), TracingOptions(with_norms=True)
    )
    with pytest.raises(ModelError, match="LongcatFlashExperts cannot run one expert alone"):
        next(texts)


@pytest.mark.parametrize(("family_name", "message"), [("llama", "no experts found in LlamaForCausalLM")])
def test_a_dense_model_has_no_experts(family_name: str, message: str) -> None:
    import transformers

    from tests.specialisation.families import BASE

    config = transformers.AutoConfig.for_model(family_name, **{k: v for k, v in BASE.items() if "experts" not in k})
    model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    with pytest.raises(ModelError, match=message):
        sites_of(loaded(model), name="model")


def test_a_family_that_does_not_select_by_indices_is_refused_by_name() -> None:
    import transformers

    from tests.specialisation.families import BASE

    config = transformers.Llama4TextConfig(
        **{**BASE, "num_experts_per_tok": 1}, num_local_experts=4, intermediate_size_mlp=48, head_dim=8
    )
    model = transformers.Llama4ForCausalLM(config)
    with pytest.raises(ModelError, match=r"llama4_text has experts \(num_local_experts\), but does not select them"):
        sites_of(loaded(model), name="model")
