"""Every native family: with identical experts, the mixture computes exactly what the dense model does."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.errors import ModelError
from moe_ray.moe.families import Family, family_of
from moe_ray.moe.families.granite import Granite
from moe_ray.moe.families.llama import Llama
from moe_ray.moe.families.mistral import Mistral
from moe_ray.moe.families.olmo2 import Olmo2
from moe_ray.moe.families.phi3 import Phi3
from moe_ray.moe.families.qwen2 import Qwen2
from moe_ray.moe.families.qwen3 import Qwen3
from moe_ray.moe.upcycle.plan import UpcyclePlan, plan_upcycle
from moe_ray.moe.upcycle.request import UpcycleSettings
from tests.moe.dense import CASES, Case, load, logits, make_dense, some_tokens, upcycle

TOLERANCE = 1e-5
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
FAMILIES: tuple[Family, ...] = (Llama(), Mistral(), Qwen2(), Qwen3(), Phi3(), Granite(), Olmo2())


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    case: Case
    dense_dir: Path
    mixture_dir: Path
    plan: UpcyclePlan
    dense: Any


@pytest.fixture(scope="module", params=sorted(CASES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    dense_dir = make_dense(folder / "dense", case.model_type, **case.odd)
    settings = UpcycleSettings(num_experts=4, top_k=2, layers=case.layers)
    plan = upcycle(dense_dir, folder / "mixture", settings)
    return Made(case=case, dense_dir=dense_dir, mixture_dir=folder / "mixture", plan=plan, dense=load(dense_dir))


def furthest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_mixture_of_alike_experts_gives_the_dense_models_logits_and_text(made: Made, implementation: str) -> None:
    mixture = load(made.mixture_dir, experts_implementation=implementation)
    assert mixture.config.model_type == made.case.target
    assert mixture.config._experts_implementation == implementation
    assert furthest(logits(mixture), logits(made.dense)) <= TOLERANCE
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(some_tokens())}
    assert torch.equal(mixture.generate(some_tokens(), **options), made.dense.generate(some_tokens(), **options))


def test_every_tensor_finds_its_place_and_saving_again_writes_the_same_names(made: Made, tmp_path: Path) -> None:
    mixture, info = load_with_info(made.mixture_dir)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    mixture.save_pretrained(tmp_path)
    ours, theirs = TensorReader(made.mixture_dir), TensorReader(tmp_path)
    assert ours.names() == theirs.names()
    assert all(torch.equal(ours.get(name), theirs.get(name)) for name in ours.names())
    assert torch.equal(logits(load(tmp_path)), logits(mixture))


def load_with_info(directory: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    return model.eval(), info


def test_the_plan_names_exactly_the_tensors_and_bytes_that_are_written(made: Made) -> None:
    written = TensorReader(made.mixture_dir)
    assert sorted(tensor.tensor for tensor in made.plan.tensors) == sorted(written.names())
    assert made.plan.num_bytes == sum(written.get(name).nbytes for name in written.names())
    assert made.plan.num_parameters == sum(written.get(name).numel() for name in written.names())


def test_layers_that_were_not_asked_for_stay_dense(made: Made) -> None:
    asked = range(3) if made.case.layers is None else made.case.layers
    names = TensorReader(made.mixture_dir).names()
    with_experts = {int(name.split(".")[2]) for name in names if "experts." in name or "input_linear" in name}
    assert with_experts == set(asked)


def test_parts_of_experts_that_answer_together_give_the_dense_models_logits(made: Made, tmp_path: Path) -> None:
    settings = UpcycleSettings(num_experts=8, top_k=4, groups=2, layers=made.case.layers)
    plan = upcycle(made.dense_dir, tmp_path / "fine", settings)
    assert plan.recipe.shape.expert_size == 20
    assert furthest(logits(load(tmp_path / "fine")), logits(made.dense)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("mistral", {"sliding_window": None}),
        ("phi3", {"sliding_window": None}),
        ("mistral-partly", {"layer_types": ["full_attention"] * 3}),
        ("qwen2", {"layer_types": ["full_attention"] * 3}),
        ("qwen3-partly", {"sliding_window": None, "use_sliding_window": False}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
        ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
        ("granite", {"attention_multiplier": 1.0}),
        ("granite", {"residual_multiplier": 1.0}),
        ("qwen2", {"norm_topk_prob": False}),
    ],
)
def test_the_odd_cases_are_felt_when_the_mixture_loses_them(name: str, without: Any, tmp_path: Path) -> None:
    case = CASES[name]
    dense_dir = make_dense(tmp_path / "dense", case.model_type, **case.odd)
    upcycle(dense_dir, tmp_path / "mixture", UpcycleSettings(num_experts=4, top_k=2, layers=case.layers))
    config = AutoConfig.from_pretrained(tmp_path / "mixture")
    for field, value in without.items():
        setattr(config, field, value)
    assert furthest(logits(load(tmp_path / "mixture", config=config)), logits(load(dense_dir))) > 100 * TOLERANCE


def test_a_process_that_knows_transformers_alone_loads_a_mixture(tmp_path: Path) -> None:
    case = CASES["llama-partly"]
    dense_dir = make_dense(tmp_path / "dense", case.model_type, **case.odd)
    upcycle(dense_dir, tmp_path / "mixture", UpcycleSettings(num_experts=4, top_k=2, layers=case.layers))
    torch.save({"tokens": some_tokens(), "logits": logits(load(dense_dir))}, tmp_path / "expected.pt")
    code = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
        "expected = torch.load('expected.pt')\n"
        "model = AutoModelForCausalLM.from_pretrained('mixture').eval()\n"
        "with torch.inference_mode(): found = model(expected['tokens']).logits\n"
        "assert 'moe_ray' not in sys.modules\n"
        "print((found - expected['logits']).abs().max().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) <= TOLERANCE


@pytest.mark.parametrize(
    ("model_type", "odd", "layers", "named"),
    [
        ("llama", {"attention_bias": True}, None, "attention_bias"),
        ("llama", {"mlp_bias": True}, None, "mlp_bias"),
        ("granite", {"mlp_bias": True}, None, "mlp_bias"),
        ("granite", {}, (1,), r"layers \[0, 2\] would stay dense"),
        ("olmo2", {}, (0, 1), r"layers \[2\] would stay dense"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
            None,
            "sliding window",
        ),
        (
            "phi3",
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}},
            None,
            "longrope",
        ),
        (
            "phi3",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            None,
            "part of each head",
        ),
        ("gpt_neox", {}, None, "gpt_neox"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(
    model_type: str, odd: Any, layers: tuple[int, ...] | None, named: str, tmp_path: Path
) -> None:
    make_dense(tmp_path, model_type, **odd)
    with pytest.raises(ModelError, match=named) as caught:
        plan_upcycle(tmp_path, UpcycleSettings(num_experts=4, top_k=2, layers=layers))
    assert caught.value.where
    assert caught.value.remedy


def test_configurations_that_older_versions_wrote_mean_the_same(tmp_path: Path) -> None:
    make_dense(tmp_path / "dense", "mistral", sliding_window=5)
    path = tmp_path / "dense" / "config.json"
    config = json.loads(path.read_text())
    for field in ("dtype", "head_dim", "rope_parameters", "transformers_version"):
        config.pop(field)
    old = {"torch_dtype": "float32", "rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    path.write_text(json.dumps({**config, **old}))
    plan = upcycle(tmp_path / "dense", tmp_path / "mixture", UpcycleSettings(num_experts=4, top_k=2))
    assert plan.config.rope_parameters["rope_theta"] == 50.0
    assert furthest(logits(load(tmp_path / "mixture")), logits(load(tmp_path / "dense"))) <= TOLERANCE


def test_each_family_is_found_under_its_own_model_type() -> None:
    assert [type(family_of(family.model_type)) for family in FAMILIES] == [type(family) for family in FAMILIES]


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("llama-partly", {}, "hidden_size / num_attention_heads"),
        ("mistral-partly", {}, "layer_types"),
        ("mistral", {"hidden_act": "gelu"}, "silu alone"),
        ("qwen3", {}, "attention biases"),
        ("olmo2", {}, "renormalise"),
        ("olmo2", {"tie_word_embeddings": True}, "tied embeddings"),
    ],
)
def test_what_vllm_would_do_otherwise_is_said(name: str, more: Any, said: str, tmp_path: Path) -> None:
    case = CASES[name]
    make_dense(tmp_path, case.model_type, **{**case.odd, **more})
    plan = plan_upcycle(tmp_path, UpcycleSettings(num_experts=4, top_k=2, layers=case.layers))
    assert any(said in caution for caution in plan.cautions)


def test_a_plain_llama_needs_no_caution(tmp_path: Path) -> None:
    make_dense(tmp_path, "llama")
    assert plan_upcycle(tmp_path, UpcycleSettings(num_experts=4, top_k=2)).cautions == ()
