"""Which engine a model gets. Engines are imported only when one is made."""

import difflib
import importlib
import importlib.util
import re
from typing import cast

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, Engine
from moe_ray.engines.model_keys import require_meaning
from moe_ray.engines.settings import (
    EndpointSettings,
    EngineSettings,
    ScriptedSettings,
    ServerSettings,
    TransformersSettings,
    parse_settings,
)
from moe_ray.errors import ConfigError

ENGINE_METHODS = ("generate", "loglikelihoods", "memory", "close")

_CLASSES = {
    "transformers": "moe_ray.engines.transformers.engine:TransformersEngine",
    "endpoint": "moe_ray.engines.endpoint.engine:EndpointEngine",
    "server": "moe_ray.engines.server.engine:ServerEngine",
    "scripted": "moe_ray.engines.scripted:ScriptedEngine",
}
ENGINE_SETTINGS: dict[str, type[EngineSettings]] = {
    "transformers": TransformersSettings,
    "endpoint": EndpointSettings,
    "server": ServerSettings,
    "scripted": ScriptedSettings,
}
_MODULE_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def validate_engine_name(name: str) -> None:
    """Raise `ConfigError` unless `name` is an engine that ships or is spelled `module:Class`. Imports nothing."""
    if name in _CLASSES or _MODULE_CLASS.fullmatch(name):
        return
    raise ConfigError(
        f"no engine is called {name!r}{_suggestion(name, list(_CLASSES))}",
        where="engine",
        remedy=f"write one of {', '.join(sorted(_CLASSES))}, or module:Class",
    )


def validate_engine(model: ModelConfig) -> None:
    """Check the model's engine and, for the engines that ship, its settings. Loads no engine.

    Raises `ConfigError`, whose `where` is the key within the model's section.
    """
    validate_engine_name(model.engine)
    if model.engine in ENGINE_SETTINGS:
        parse_settings(ENGINE_SETTINGS[model.engine], model)
        require_meaning(model)
    else:
        _require_module(model.engine.partition(":")[0], model.engine)


def _require_module(module_name: str, engine: str) -> None:
    try:
        found = importlib.util.find_spec(module_name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(
            f"engine {engine!r}: no module named {module_name}",
            where="engine",
            remedy=f"make {module_name} importable here (installed, or on PYTHONPATH), or choose another engine",
        )


def make_engine(model: ModelConfig, limits: BatchLimits) -> Engine:
    """Load `model` with its engine, on the device that this process sees.

    Raises `ConfigError` when the engine or its settings are wrong, `ModelError` when the model cannot be loaded.
    """
    validate_engine(model)
    module_name, _, class_name = _CLASSES.get(model.engine, model.engine).partition(":")
    return _engine_class(module_name, class_name, model.engine)(model, limits)


def _engine_class(module_name: str, class_name: str, engine: str) -> type[Engine]:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"engine {engine!r}: {error}",
            where="engine",
            remedy=f"make {module_name} importable here (installed, or on PYTHONPATH), or choose another engine",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        names = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(
            f"engine {engine!r}: {module_name} has no class {class_name}{_suggestion(class_name, names)}",
            where="engine",
        )
    _require_methods(found, engine)
    return cast(type[Engine], found)


def _require_methods(found: type, engine: str) -> None:
    missing = [name for name in ENGINE_METHODS if not callable(getattr(found, name, None))]
    if missing:
        raise ConfigError(
            f"engine {engine!r} lacks {', '.join(missing)}",
            where="engine",
            remedy="an engine has the methods of moe_ray.engines.base.Engine",
        )


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
