"""Which engine a model gets, and how a wrong name is refused."""

import subprocess
import sys

import pytest

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.registry import make_engine, validate_engine, validate_engine_name
from moe_ray.engines.scripted import ScriptedEngine
from moe_ray.errors import ConfigError
from tests.engines.asking import ROOMY


class NoEngine:
    """A class that lacks an engine's methods."""


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


def test_checking_an_engine_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from moe_ray.config.schema import ModelConfig; from moe_ray.engines.registry import *;"
        "validate_engine(ModelConfig(path='m')); make_engine(ModelConfig(path='m', engine='scripted'), None);"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
