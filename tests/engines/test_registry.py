"""Which engine a model gets, and how a wrong name is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig, RuntimeConfig
from moe_ray.engines.api_settings import EndpointSettings
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

OWN = f"{__name__}:OwnEngine"
SECRET = "sk-secret-0123456789"
ADDRESS = "http://one:8000/v1"


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


SLOWER: dict[str, Any] = {
    "api_key_env": "KEY",
    "max_concurrent_requests": 2,
    "requests_per_minute": 10.0,
    "timeout_s": 5.0,
    "max_retries": 0,
    "max_tokens_key": "max_completion_tokens",
}


def identity_of(engine: str = "endpoint", **settings: Any) -> dict[str, Any]:
    return text_settings(engine, {"base_url": ADDRESS, **settings} if engine == "endpoint" else settings)


def test_how_fast_and_with_which_key_is_no_identity() -> None:
    EndpointSettings(base_url=ADDRESS, **SLOWER)
    assert identity_of(**SLOWER) == identity_of()
    assert identity_of(extra_body={"top_k": 1}) != identity_of()
    assert identity_of(stream=False) != identity_of(), "an API may stream another text than it sends whole"


def test_an_address_is_an_identity_until_a_name_stands_in_its_place() -> None:
    assert identity_of() != identity_of(base_url="http://two:8000/v1")
    assert identity_of(identity="our-7b") == identity_of(base_url="http://two:8000/v1", identity="our-7b")
    assert identity_of(identity="our-7b") != identity_of(identity="our-8b")


def test_a_scripted_error_decides_an_answer_and_is_an_identity() -> None:
    assert text_settings("scripted", {"error_on": ["a"], "crash_on": ["b"]}) == {"error_on": ["a"]}


@pytest.mark.parametrize(
    ("fields", "settings", "where"),
    [
        ({}, {"base_url": "ftp://host/v1"}, "engine_settings.base_url"),
        ({}, {"base_url": "host:8000/v1"}, "engine_settings.base_url"),
        ({}, {"base_url": f"http://me:{SECRET}@host/v1"}, "engine_settings.base_url"),
        ({}, {"base_url": f"http://host/v1?key={SECRET}"}, "engine_settings.base_url"),
        ({}, {"api_key_env": SECRET}, "engine_settings.api_key_env"),
        ({}, {"api_key": SECRET}, "engine_settings.api_key"),
        ({}, {"extra_body": {"prompt": "x"}}, "engine_settings.extra_body"),
        ({}, {"max_retries": -1}, "engine_settings.max_retries"),
        ({"dtype": "float16"}, {}, "dtype"),
        ({"revision": "abc"}, {}, "revision"),
        ({"tokenizer": "other"}, {}, "tokenizer"),
        ({"quantization": "4bit"}, {}, "quantization"),
        ({"overflow": "truncate_left"}, {}, "overflow"),
        ({"gpus": 1}, {}, "gpus"),
    ],
)
def test_settings_without_a_meaning_are_refused_and_no_secret_is_shown(
    fields: dict[str, Any], settings: dict[str, Any], where: str
) -> None:
    settings = {"base_url": ADDRESS, **settings}
    with pytest.raises(ConfigError) as caught:
        validate_engine(ModelConfig(path="tiny", engine="endpoint", engine_settings=settings, **fields))
    assert caught.value.where == where
    assert caught.value.remedy
    assert SECRET not in str(caught.value)
