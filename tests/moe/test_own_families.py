"""GPT-2, GPT-Neo and OPT, upcycled to this package's own classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.errors import ModelError
from moe_ray.moe.upcycle.experts import FineTunes
from moe_ray.moe.upcycle.plan import plan_upcycle
from moe_ray.moe.upcycle.request import UpcycleSettings
from tests.architectures.own import CASES, NUM_EXPERTS, ODD_CASES, Case, gpt2, mixture_of, tokens
from tests.moe.dense import upcycle

TOLERANCE = 1e-5
WITH_BIASES = {name: case for name, case in ODD_CASES.items() if "without biases" not in name}
SETTINGS = UpcycleSettings(num_experts=NUM_EXPERTS, top_k=2, layers=(0, 2))


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def saved(case: Case, directory: Path, seed: int = 0) -> Any:
    dense = case.dense(seed)
    dense.save_pretrained(directory)
    return dense


def load(directory: Path, **chosen: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, **chosen).eval()


def logits(model: Any, **more: Any) -> torch.Tensor:
    ids, mask = tokens()
    with torch.inference_mode():
        found: torch.Tensor = model(ids, attention_mask=mask, **more).logits[mask.bool()]
    return found


@pytest.mark.parametrize("name", WITH_BIASES)
def test_a_mixture_of_alike_experts_gives_the_dense_models_logits_and_text(name: str, tmp_path: Path) -> None:
    dense = saved(WITH_BIASES[name], tmp_path / "dense")
    plan = upcycle(tmp_path / "dense", tmp_path / "mixture", SETTINGS)
    ids, mask = tokens()
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        mixture = load(tmp_path / "mixture", experts_implementation=implementation)
        assert (logits(mixture) - logits(dense)).abs().max() <= TOLERANCE
        options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
        assert torch.equal(mixture.generate(ids, **options), dense.generate(ids, **options))
    assert mixture.config.mlp_only_layers == [1]
    assert plan.config.model_type == mixture.config.model_type == f"{dense.config.model_type}_moe"


def test_the_tensors_are_those_of_a_second_conversion(case: Case, tmp_path: Path) -> None:
    dense = saved(case, tmp_path / "dense")
    plan = upcycle(tmp_path / "dense", tmp_path / "mixture", SETTINGS)
    ours = load(tmp_path / "mixture").state_dict()
    theirs = mixture_of(case, dense, mlp_only_layers=[1]).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.endswith("gate.weight"))
    assert {origin.tensor for origin in plan.tensors} == ours.keys() - {"lm_head.weight"}


def test_parts_of_experts_that_answer_together_are_exact(case: Case, tmp_path: Path) -> None:
    dense = saved(case, tmp_path / "dense")
    settings = UpcycleSettings(num_experts=2 * NUM_EXPERTS, top_k=4, groups=2)
    upcycle(tmp_path / "dense", tmp_path / "mixture", settings)
    mixture = load(tmp_path / "mixture")
    assert mixture.config.moe_intermediate_size == 20
    assert (logits(mixture) - logits(dense)).abs().max() <= TOLERANCE


def test_fine_tunes_as_experts_answer_alone_as_they_did(case: Case, tmp_path: Path) -> None:
    base = saved(case, tmp_path / "dense")
    for seed in (1, 2, 3):
        other = case.dense(seed).state_dict()
        networks = {name: value for name, value in other.items() if case.up in name or case.down in name}
        tuned = case.dense()
        tuned.load_state_dict(base.state_dict() | networks)
        tuned.save_pretrained(tmp_path / f"tuned{seed}")
    tuned_dirs = tuple(tmp_path / f"tuned{seed}" for seed in (1, 2, 3))
    settings = UpcycleSettings(num_experts=3, top_k=1, experts=FineTunes(model_dirs=tuned_dirs))
    upcycle(tmp_path / "dense", tmp_path / "mixture", settings)
    mixture = load(tmp_path / "mixture")
    for expert, directory in enumerate(tuned_dirs):
        assert (logits(mixture, forced_expert=expert) - logits(load(directory))).abs().max() <= TOLERANCE


def test_the_code_lies_beside_the_checkpoint_and_its_configuration_names_it(case: Case, tmp_path: Path) -> None:
    saved(case, tmp_path / "dense")
    plan = upcycle(tmp_path / "dense", tmp_path / "mixture", SETTINGS)
    written = json.loads((tmp_path / "mixture" / "config.json").read_text())
    model_type = written["model_type"]
    assert sorted(path.name for path in (tmp_path / "mixture").glob("*.py")) == ["experts.py", f"{model_type}.py"]
    assert {value.partition(".")[0] for value in written["auto_map"].values()} == {model_type}
    assert written["auto_map"].keys() == {"AutoConfig", "AutoModelForCausalLM"}
    assert written["architectures"] == [written["auto_map"]["AutoModelForCausalLM"].partition(".")[2]]
    assert any("trust_remote_code" in caution for caution in plan.cautions)


@pytest.mark.parametrize(
    ("case", "named"),
    [
        (Case(config=lambda: gpt2(add_cross_attention=True)), "cross-attention"),
        (ODD_CASES["opt without biases, gelu"], "enable_bias"),
    ],
    ids=["gpt2", "opt"],
)
def test_what_cannot_be_exact_is_refused_by_name(case: Case, named: str, tmp_path: Path) -> None:
    saved(case, tmp_path)
    with pytest.raises(ModelError, match=named) as caught:
        plan_upcycle(tmp_path, SETTINGS)
    assert caught.value.remedy
