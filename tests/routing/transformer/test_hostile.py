"""A transformer router from somebody else: its files are read, and none of them is run."""

import pickle
import shutil
from pathlib import Path

import pytest

from moe_ray.errors import ModelError
from moe_ray.routing.files import RouterRecord
from moe_ray.routing.router import Router
from moe_ray.routing.transformer import TransformerClassifier
from moe_ray.routing.transformer.encoder import make_base
from tests.routing.hostile import MODULE, answer_yes, arm, change_json, seal
from tests.routing.queries import DOMAINS
from tests.routing.transformer.tiny import TEST, described
from tests.support.canary import TOKENIZER_MAP, Touch

CONFIG_MAP = {"AutoConfig": f"{MODULE}.Evil", "AutoModelForSequenceClassification": f"{MODULE}.Evil"}


@pytest.fixture
def directory(router: TransformerClassifier, tmp_path: Path) -> Path:
    record = RouterRecord(
        moe_ray_version="0",
        kind="transformer",
        labels=list(DOMAINS),
        temperature=1.0,
        out_of_domain_score="max_probability",
        threshold=0.2,
        query="question",
        settings={},
        texts="0",
    )
    Router(classifier=router, record=record).save(tmp_path / "router")
    return tmp_path / "router"


def test_a_router_that_needs_its_own_code_is_refused_without_a_question(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, asked = tmp_path / "ran", answer_yes(monkeypatch)
    arm(directory, canary)
    change_json(directory / "config.json", model_type="evil", auto_map=CONFIG_MAP)
    seal(directory)
    with pytest.raises(ModelError, match="needs the code that comes with it") as caught:
        Router.load(directory)
    assert caught.value.where == str(directory / "config.json")
    assert not canary.exists()
    assert asked == []


def test_a_tokenizer_that_needs_its_own_code_is_refused_without_a_question(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, asked = tmp_path / "ran", answer_yes(monkeypatch)
    arm(directory, canary)
    change_json(directory / "config.json", model_type="evil", auto_map={**CONFIG_MAP, **TOKENIZER_MAP})
    change_json(directory / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=TOKENIZER_MAP)
    seal(directory)
    with pytest.raises(ModelError, match="needs the code that comes with it") as caught:
        Router.load(directory)
    assert caught.value.where == str(directory / "tokenizer.json")
    assert not canary.exists()
    assert asked == []


def test_code_beside_a_known_architecture_is_not_run(
    directory: Path, router: TransformerClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, asked = tmp_path / "ran", answer_yes(monkeypatch)
    arm(directory, canary)
    for name in ("config.json", "tokenizer_config.json"):
        change_json(directory / name, auto_map={**CONFIG_MAP, **TOKENIZER_MAP})
    seal(directory)
    queries = [text.text for text in TEST]
    assert (Router.load(directory).outputs(queries).logits == router.outputs(queries).logits).all()
    assert not canary.exists()
    assert asked == []


def test_a_pickle_in_place_of_the_weights_is_not_read(directory: Path, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    for name in ("pytorch_model.bin", "model.bin", "training_args.bin"):
        (directory / name).write_bytes(pickle.dumps(Touch(canary)))
    (directory / "model.safetensors").write_bytes(pickle.dumps(Touch(canary)))
    seal(directory)
    with pytest.raises(ModelError, match="missing or damaged"):
        Router.load(directory)
    (directory / "model.safetensors").unlink()
    seal(directory)
    with pytest.raises(ModelError, match="missing or damaged"):
        Router.load(directory)
    assert not canary.exists()


def test_a_base_model_that_needs_its_own_code_is_refused_without_a_question(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, asked = tmp_path / "ran", answer_yes(monkeypatch)
    base = shutil.copytree(directory, tmp_path / "base")
    arm(base, canary)
    change_json(base / "config.json", model_type="evil", auto_map=CONFIG_MAP)
    config = described().model_copy(update={"architecture": None, "base_model": str(base)})
    with pytest.raises(ModelError, match="needs the code that comes with it"):
        make_base(config, DOMAINS, [])
    assert not canary.exists()
    assert asked == []
