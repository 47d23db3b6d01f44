"""A checkpoint from somebody else, opened by everything that makes and checks mixtures: none of its files is run."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import transformers

from moe_ray.checkpoints.source import read_config
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers import loading
from moe_ray.errors import ModelError
from moe_ray.gating.embeddings import read_input_embeddings
from moe_ray.moe.running import load_for_construction, load_tokenizer
from tests.architectures.own import CASES, mixture_of
from tests.routing.hostile import MODULE, answer_yes, arm, change_json
from tests.support.canary import TOKENIZER_MAP, Touch
from tests.support.tiny_models import make_tiny_checkpoint

CODE_MAP = {"AutoConfig": f"{MODULE}.Evil", "AutoModelForCausalLM": f"{MODULE}.Evil"}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A whole checkpoint of a type that transformers does not know, with the code for it."""
    directory = make_tiny_checkpoint(tmp_path / "hostile", "llama")
    arm(directory, tmp_path / "ran")
    change_json(directory / "config.json", model_type="evil", auto_map={**CODE_MAP, **TOKENIZER_MAP})
    change_json(directory / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=TOKENIZER_MAP)
    return directory


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Nothing is ever asked on standard input, and the canary is never there."""
    questions = answer_yes(monkeypatch)
    yield questions
    assert questions == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "read",
    [
        load_for_construction,
        load_tokenizer,
        read_config,
        lambda directory: read_input_embeddings(str(directory), None, where="router.base_model"),
        lambda directory: loading.load(ModelConfig(path=str(directory), gpus=0), TransformersSettings()),
    ],
    ids=["model", "tokenizer", "configuration", "input embeddings", "engine"],
)
def test_a_checkpoint_that_needs_its_own_code_is_refused(read: Callable[[Path], object], hostile: Path) -> None:
    with pytest.raises(ModelError, match="needs the code that comes with it") as caught:
        read(hostile)
    assert str(hostile) in str(caught.value)
    assert caught.value.remedy


def test_the_engine_says_how_to_allow_the_code(hostile: Path) -> None:
    with pytest.raises(ModelError) as caught:
        loading.load(ModelConfig(path=str(hostile), gpus=0), TransformersSettings())
    assert str(caught.value.remedy).startswith("set trust_remote_code: true for this model")


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("trusts", [False, True])
def test_our_own_architectures_load_with_our_classes_not_with_the_files_beside_them(
    name: str, tmp_path: Path, *, trusts: bool
) -> None:
    case = CASES[name]
    directory = make_tiny_checkpoint(tmp_path / "mixture", "llama")
    (directory / "config.json").unlink()
    mixture_of(case, case.dense(0), case.dense(1)).save_pretrained(directory)
    beside = list(directory.glob("*.py"))
    assert beside
    for path in beside:
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "auto_map" in json.loads((directory / "config.json").read_text())
    config = ModelConfig(path=str(directory), gpus=0, trust_remote_code=trusts)
    for model in (loading.load(config, TransformersSettings()).model, load_for_construction(directory)):
        assert type(model).__module__.startswith("moe_ray.architectures.")
    assert type(read_config(directory)).__module__.startswith("moe_ray.architectures.")
    assert not [module for module in sys.modules if module.startswith("transformers_modules.mixture")]


def test_a_pickle_in_place_of_the_weights_is_not_run(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "pickled", "llama")
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    for read in (
        load_for_construction,
        lambda directory: read_input_embeddings(str(directory), None, where="router.base_model"),
        lambda directory: loading.load(ModelConfig(path=str(directory), gpus=0), TransformersSettings()),
    ):
        with pytest.raises(ModelError):
            read(directory)


def test_code_beside_a_known_architecture_is_left_alone(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "known", "llama")
    copy = shutil.copytree(directory, tmp_path / "armed")
    arm(copy, tmp_path / "ran")
    for name in ("config.json", "tokenizer_config.json"):
        change_json(copy / name, auto_map={**CODE_MAP, **TOKENIZER_MAP})
    assert isinstance(load_for_construction(copy), transformers.LlamaForCausalLM)
    assert load_tokenizer(copy)("a b").input_ids == load_tokenizer(directory)("a b").input_ids
