"""Look up a model's engine. Engines are imported only when one is created."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.api_settings import EndpointSettings, ServerSettings
from moe_ray.engines.base import BatchLimits, Engine
from moe_ray.engines.settings import (
    CHAT_TEMPLATE_KWARGS,
    AnySettings,
    EngineSettings,
    ScriptedSettings,
    TransformersSettings,
    parse_settings,
)
from moe_ray.errors import ConfigError, first_line
from moe_ray.fingerprint import file_sha256
from moe_ray.suggestions import suggestion

# Arguments of transformers' apply_chat_template that are not variables of a template.
OWN_TEMPLATE_ARGUMENTS = frozenset(
    {
        "conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
        "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)  # fmt: skip


def _require_switches_of_a_template(model: ModelConfig) -> None:
    key, switches = CHAT_TEMPLATE_KWARGS, model.chat_template_kwargs
    if switches and model.prompt_style == "completion":
        raise ConfigError(
            "a completion goes through no chat template", where=key, remedy=f"remove {key}, or use prompt_style: chat"
        )
    if taken := sorted(OWN_TEMPLATE_ARGUMENTS & switches.keys()):
        raise ConfigError(f"{', '.join(taken)} follow from the experiment", where=key, remedy=f"remove {taken[0]}")
    if switches and key in model.engine_settings.get("extra_body", {}):
        raise ConfigError("given twice: engine_settings.extra_body has it too", where=key, remedy="remove one of them")


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
        f"no engine is called {name!r}{suggestion(name, list(_CLASSES))}",
        where="engine",
        remedy=f"write one of {', '.join(sorted(_CLASSES))}, or module:Class",
    )


def validate_engine(model: ModelConfig) -> None:
    """Check the model's engine and, for the engines that ship, its settings. Loads no engine.

    Raises `ConfigError`, whose `where` is the key within the model's section.
    """
    settings = settings_class(model.engine)
    _require_switches_of_a_template(model)
    parse_settings(settings, model)
    settings.require_meaning(model)


def require_checkpoint(model: ModelConfig, config: Mapping[str, Any] | None) -> None:
    """Check the model's settings against its config.json, if that is at hand. Loads no engine.

    Raises `ConfigError`, whose `where` is the key within the model's section.
    """
    if config is not None:
        settings_class(model.engine).require_checkpoint(model, config)


def settings_class(engine: str) -> type[EngineSettings]:
    """Return the class of an engine's settings, which says what the engine needs.

    A class of the user's is imported: it names its settings in the attribute `Settings`, or takes any. Raises
    `ConfigError` when there is no such engine.
    """
    validate_engine_name(engine)
    if engine in ENGINE_SETTINGS:
        return ENGINE_SETTINGS[engine]
    module_name, _, class_name = engine.partition(":")
    settings = getattr(_engine_class(module_name, class_name, engine), "Settings", AnySettings)
    if not (isinstance(settings, type) and issubclass(settings, EngineSettings)):
        raise ConfigError(
            f"engine {engine!r}: its attribute Settings is not a subclass of EngineSettings",
            where="engine",
            remedy="derive it from moe_ray.engines.settings.EngineSettings, or leave it out",
        )
    return settings


def text_settings(engine: str, settings: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings that decide the text; a local file is replaced by its content's hash.

    With `config`, the checkpoint's config.json, two spellings of one setting are returned as one.
    """
    declared = settings_class(engine)
    given = settings if config is None else declared.canonical(settings, config)
    return {key: _content(value) for key, value in declared.text_settings(given).items()}


def _content(value: object) -> object:
    if isinstance(value, str) and is_local_path(value) and Path(value).expanduser().is_file():
        return {"sha256": file_sha256(Path(value).expanduser())}
    return value


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
    except Exception as error:
        raise ConfigError(
            f"engine {engine!r}: {first_line(error)}",
            where="engine",
            remedy=f"make {module_name} importable here (installed, or on PYTHONPATH), or choose another engine",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        names = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(
            f"engine {engine!r}: {module_name} has no class {class_name}{suggestion(class_name, names)}",
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
