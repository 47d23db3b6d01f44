"""Identify, save and load checkpoints of moe_ray's own architectures: here, elsewhere, and by the engine."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray import architectures
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.loading import load
from tests.architectures.own import CASES, NUM_EXPERTS, Case, gpt2, mixture_of, tokens
from tests.support.tiny_models import make_tokenizer

ALONE = """
import json, sys
import torch, transformers
ids = torch.tensor(json.loads(sys.argv[1]))
for directory in sys.argv[2:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
    generated = model.generate(ids, max_new_tokens=6, do_sample=False, forced_expert=1).tolist()
    model.save_pretrained(directory + "-again")
    with torch.no_grad():
        logits = model(ids).logits.tolist()
    print(json.dumps({"class": type(model).__module__, "logits": logits, "ids": generated}))
assert "moe_ray" not in sys.modules
"""


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.mark.slow
def test_transformers_alone_loads_the_checkpoints_with_the_code_beside_them(tmp_path: Path) -> None:
    mixtures = {
        name: mixture_of(case, case.dense(0), case.dense(1), mlp_only_layers=[1]) for name, case in CASES.items()
    }
    for name, mixture in mixtures.items():
        mixture.save_pretrained(tmp_path / name)
    ids = tokens(num_rows=1)[0][:, 4:]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(ids.tolist()), *(str(tmp_path / name) for name in mixtures)],
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for line, (name, mixture) in zip(done.stdout.splitlines(), mixtures.items(), strict=True):
        found = json.loads(line)
        assert found["class"].startswith("transformers_modules.")
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(found["logits"]), mixture(ids).logits, rtol=0, atol=1e-5)
        assert found["ids"] == mixture.generate(ids, max_new_tokens=6, do_sample=False, forced_expert=1).tolist()
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}-again")
        assert type(again) is type(mixture)
        code = [{path.name for path in (tmp_path / folder).glob("*.py")} for folder in (name, f"{name}-again")]
        assert code[0] == code[1]


def test_the_configuration_alone_brings_the_code_and_names_the_classes(case: Case, tmp_path: Path) -> None:
    config = mixture_of(case, case.dense()).config
    config.auto_map = architectures.auto_map(config.model_type)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert written == architectures.auto_map(config.model_type)
    assert {path.name for path in tmp_path.glob("*.py")} == {"experts.py", f"{config.model_type}.py"}


def test_registering_again_changes_nothing() -> None:
    architectures.register()
    architectures.register.__wrapped__()
    for model_type in architectures.ARCHITECTURES:
        config_class = transformers.CONFIG_MAPPING[model_type]
        assert config_class.model_type == model_type
        assert config_class in transformers.MODEL_FOR_CAUSAL_LM_MAPPING


def test_the_engine_loads_it_without_trusting_code(case: Case, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    dense_config = case.config()
    dense_config.vocab_size = len(tokenizer)
    sized = replace(case, config=lambda: dense_config)
    mixture_of(sized, sized.dense()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(ModelConfig(path=str(tmp_path), dtype="bfloat16"), TransformersSettings())
    assert type(loaded.model).__module__.startswith("moe_ray.architectures.")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.context_length == 32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts_per_tok": NUM_EXPERTS + 1}, "num_experts_per_tok is 4, but must be 1 to num_experts"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"mlp_only_layers": [0, 3]}, r"mlp_only_layers names \[3\], but there are 3 layers"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(case: Case, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture_of(case, case.dense(), **fields)


def test_cross_attention_is_refused() -> None:
    dense = CASES["gpt2"].dense()
    dense.config.add_cross_attention = True
    with pytest.raises(ValueError, match="no cross-attention"):
        mixture_of(CASES["gpt2"], dense)
    mixture = mixture_of(CASES["gpt2"], CASES["gpt2"].dense())
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        mixture(tokens()[0], encoder_hidden_states=torch.zeros(2, 5, 24))


def test_layers_named_as_dense_have_no_experts_and_an_expert_may_be_smaller(case: Case) -> None:
    mixture = mixture_of(case, case.dense(), mlp_only_layers=[2, 0, 2])
    assert mixture.config.mlp_only_layers == [0, 2]
    named = {name.split(".mlp.experts.")[0][-1] for name in mixture.state_dict() if ".experts." in name}
    assert named == {"1"}
    small = transformers.AutoModelForCausalLM.from_config(
        type(mixture.config)(**mixture.config.to_dict() | {"moe_intermediate_size": 10})
    )
    sizes = {tuple(value.shape) for name, value in small.state_dict().items() if name.endswith("experts.up_proj")}
    assert sizes == {(NUM_EXPERTS, 10, 24)}


def test_the_dense_class_itself_is_left_as_it_is() -> None:
    architectures.register()
    assert type(transformers.AutoModelForCausalLM.from_config(gpt2())) is transformers.GPT2LMHeadModel
