"""Which engine a model gets, and how a wrong name is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig, RuntimeConfig
from moe_ray.engines.registry import (
    make_engine,
    settings_class,
    text_settings,
    validate_engine,
    validate_engine_name,
)
from moe_ray.engines.scripted import ScriptedEngine
from moe_ray.engines.settings import EXECUTION, EngineSettings
from moe_ray.errors import ConfigError
from moe_ray.planning.fleet import Demand, Fleet, Node
from moe_ray.planning.memory import ModelUse
from moe_ray.planning.plan import place_models
from tests.engines.asking import ROOMY


class NoEngine:
    """A class that lacks an engine's methods."""


class OwnSettings(EngineSettings):
    needs_gpu: ClassVar[bool] = False
    where_it_runs: ClassVar[str] = "elsewhere"
    has_files: ClassVar[bool] = False
    beams: int = 1
    threads: Annotated[int, EXECUTION] = 4

    @classmethod
    def require_meaning(cls, model: ModelConfig) -> None:
        if model.revision is not None:
            raise ConfigError("this engine has no revisions", where="revision", remedy="remove it")


class OwnEngine(ScriptedEngine):
    Settings = OwnSettings


class EngineWithWrongSettings(ScriptedEngine):
    Settings = dict


OWN = f"{__name__}:OwnEngine"


def one_gpu() -> Fleet:
    return Fleet((Node(id="n", name="n", num_cpus=4, cpu_slots=1, gpu_bytes=(1 << 34,)),))


def own_model(**changed: Any) -> ModelConfig:
    return ModelConfig(path="/some/name", engine=OWN, **changed)


@pytest.mark.parametrize("name", ["transformers", "scripted", "package.module:Class"])
def test_good_names_are_accepted(name: str) -> None:
    validate_engine_name(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("transformer", "did you mean transformers"),
        ("script", "did you mean scripted"),
        ("vllm", "no engine is called 'vllm'"),
        ("package.module", "no engine"),
        ("package/module:Class", "no engine"),
        (":Class", "no engine"),
    ],
)
def test_a_wrong_name_is_refused_with_a_suggestion(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        validate_engine_name(name)
    assert "module:Class" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("moe_ray.engines.scriptd:ScriptedEngine", "moe_ray.engines.scriptd"),
        ("moe_ray.engines.scripted:ScriptedEngin", "did you mean ScriptedEngine"),
        ("moe_ray.engines.scripted:json", "no class json"),
        ("tests.engines.test_registry:NoEngine", "lacks generate, loglikelihoods, memory, close"),
    ],
)
def test_a_class_that_is_no_engine_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_engine(ModelConfig(path="m", engine=name), ROOMY)


@pytest.mark.parametrize("name", ["scripted", "moe_ray.engines.scripted:ScriptedEngine"])
def test_an_engine_is_made_by_name_or_by_class(name: str) -> None:
    assert isinstance(make_engine(ModelConfig(path="m", engine=name), ROOMY), ScriptedEngine)


@pytest.mark.parametrize(
    ("engine", "settings", "where"),
    [
        ("scripted", {"txt": "x"}, "engine_settings.txt"),
        ("scripted", {"load_s": -1}, "engine_settings.load_s"),
        ("scripted", {"crash_on": ["a"]}, "engine_settings"),
        ("transformers", {"attention": "fast"}, "engine_settings.attention"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(
    engine: str, settings: dict[str, object], where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_engine(ModelConfig(path="m", engine=engine, engine_settings=settings))
    assert (caught.value.where or "").startswith(where)
    assert "settings of the" in (caught.value.remedy or "")


def test_an_engine_of_the_users_says_what_planning_must_know() -> None:
    model = own_model(engine_settings={"beams": 2, "threads": 8})
    validate_engine(model)
    assert settings_class(OWN) is OwnSettings
    assert text_settings(OWN, model.engine_settings) == {"beams": 2}
    checkpoint = inspect_checkpoint("m", model, FileHashes())
    slower = inspect_checkpoint("m", own_model(engine_settings={"beams": 2, "threads": 1}), FileHashes())
    wider = inspect_checkpoint("m", own_model(engine_settings={"beams": 3}), FileHashes())
    assert checkpoint.files_sha256 == {}
    assert checkpoint.identity.fingerprint == slower.identity.fingerprint != wider.identity.fingerprint
    placement = place_models(
        {"m": model}, {"m": ModelUse(context_tokens=10, concurrency=1)}, {"m": checkpoint}, one_gpu(), RuntimeConfig()
    )
    assert placement.demands["m"] == Demand(gpus=0.0, reason="elsewhere")


@pytest.mark.parametrize(
    ("model", "where", "words"),
    [
        (own_model(engine_settings={"beam": 2}), "engine_settings.beam", "no such setting"),
        (own_model(engine_settings={"beams": "two"}), "engine_settings.beams", "valid integer"),
        (own_model(revision="main"), "revision", "no revisions"),
        (ModelConfig(path="m", engine=f"{__name__}:EngineWithWrongSettings"), "engine", "not a subclass"),
    ],
)
def test_what_an_engine_of_the_users_cannot_follow_is_refused(model: ModelConfig, where: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        validate_engine(model)
    assert caught.value.where == where


@pytest.mark.parametrize("code", ["raise RuntimeError('no licence')", "1 +", "import no_such_module"])
def test_a_module_that_cannot_be_imported_is_an_error_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "broken_engine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="broken_engine:Engine") as caught:
        validate_engine(ModelConfig(path="m", engine="broken_engine:Engine"))
    assert caught.value.__cause__ is not None


def test_an_engine_without_settings_of_its_own_takes_any_and_all_decide_the_text() -> None:
    engine = "moe_ray.engines.scripted:ScriptedEngine"
    validate_engine(ModelConfig(path="m", engine=engine, engine_settings={"anything": 1}))
    assert text_settings(engine, {"anything": 1}) == {"anything": 1}


def test_checking_an_engine_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from moe_ray.config.schema import ModelConfig; from moe_ray.engines.registry import *;"
        "validate_engine(ModelConfig(path='m')); make_engine(ModelConfig(path='m', engine='scripted'), None);"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
