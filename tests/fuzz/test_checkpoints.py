"""Damaged checkpoints: planned with, turned into a mixture, or refused in words."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.commands import nothing_lost, require_plain_end
from tests.fuzz.damage import damaged_bytes, damaged_json
from tests.fuzz.inputs import EXPERIMENT, LINES
from tests.support.commands import run
from tests.support.tiny_models import make_tiny_checkpoint

FILES = ("config.json", "model.safetensors", "tokenizer_config.json", "tokenizer.json", "generation_config.json")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("fuzz") / "model", "llama")


def planned(folder: Path) -> None:
    """Plan an experiment whose baseline is the checkpoint in `folder`/model."""
    models = {**EXPERIMENT["models"], "base": {"path": "./model"}}
    (folder / "experiment.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "models": models}), encoding="utf-8")
    (folder / "rows.jsonl").write_bytes(LINES)
    require_plain_end("plan", str(folder / "experiment.yaml"))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=settings().max_examples // 4)
@given(drawn=st.data())
def test_a_damaged_checkpoint_is_planned_with_and_upcycled_or_refused(
    name: str, valid: Path, drawn: st.DataObject
) -> None:
    content = (valid / name).read_bytes()
    damage = damaged_json if name.endswith(".json") else damaged_bytes
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        shutil.copytree(valid, model)
        (model / name).write_bytes(drawn.draw(damage(content)))
        with nothing_lost(model):
            planned(Path(folder))
            require_plain_end("moe", "upcycle", str(model), "--out", f"{folder}/mixture", "--no-check")


def changed_config(**values: object) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        (model / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed_config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
        (changed_config(num_hidden_layers="two"), "num_hidden_layers is 'two'"),
        (changed_config(hidden_size=[32]), "hidden_size is [32]"),
        (changed_config(vocab_size=-1), "vocab_size is -1"),
        (changed_config(vocab_size=1e300), "vocab_size is 1e+300"),
    ],
)
def test_a_size_beyond_reason_is_refused_by_its_key(
    change: Callable[[Path], None], says: str, valid: Path, tmp_path: Path
) -> None:
    shutil.copytree(valid, tmp_path / "model")
    change(tmp_path / "model")
    code, shown = run("moe", "upcycle", str(tmp_path / "model"), "--out", str(tmp_path / "mixture"))
    assert (code, says in shown) == (2, True), shown


def test_more_experts_than_any_mixture_has_are_refused(valid: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "mixture")
    code, shown = run("moe", "upcycle", str(valid), "--out", out, "--num-experts", "1000000", "--no-check")
    assert (code, "num_experts is 1000000" in shown) == (2, True), shown


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(valid: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(valid, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    shutil.rmtree(model)
    _with_fewer_tokens(model, config["vocab_size"] - 40)
    code, shown = run("moe", "upcycle", str(model), "--out", str(tmp_path / "mixture"))
    assert (code, "its tokenizer gives token" in shown) == (2, True), shown


def _with_fewer_tokens(model: Path, vocab_size: int) -> None:
    """A model that knows the first `vocab_size` tokens of its tokenizer."""
    import transformers

    make_tiny_checkpoint(model, "llama")
    small = transformers.AutoModelForCausalLM.from_pretrained(model)
    small.resize_token_embeddings(vocab_size)
    small.save_pretrained(model)
