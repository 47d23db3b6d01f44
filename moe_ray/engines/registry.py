"""Which engine a model gets. Engines are imported only when one is made."""

import difflib
import importlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.base import BatchLimits, Engine
from moe_ray.engines.server.process import names
from moe_ray.engines.settings import (
    CHAT_TEMPLATE_KWARGS,
    EndpointSettings,
    EngineSettings,
    ScriptedSettings,
    ServerSettings,
    TransformersSettings,
    parse_settings,
)
from moe_ray.errors import ConfigError
from moe_ray.fingerprint import file_sha256

# Arguments of transformers' apply_chat_template that are no switches of a template.
OWN_TEMPLATE_ARGUMENTS = frozenset(
    {
        "conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
        "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)  # fmt: skip
DECIDED_BY_THE_ENDPOINT = ("revision", "tokenizer", "dtype", "quantization", "overflow", "trust_remote_code")
DECIDED_BY_THE_COMMAND = ("quantization", "overflow", "trust_remote_code")
CARRIED_BY_THE_COMMAND = ("revision", "tokenizer", "dtype")


def require_meaning(model: ModelConfig) -> None:
    """Raise `ConfigError` for a key of `model` that its engine could not follow. `where` is the key."""
    _require_switches_of_a_template(model)
    if model.engine == "endpoint":
        _require_defaults(model, DECIDED_BY_THE_ENDPOINT, "the endpoint alone decides it")
        if model.gpus not in ("auto", 0):
            raise ConfigError("an endpoint takes no GPU of this cluster", where="gpus", remedy="remove it")
    elif model.engine == "server":
        _require_defaults(model, DECIDED_BY_THE_COMMAND, "an option of the server in engine_settings.command does it")
        command = model.engine_settings["command"]
        unsaid = [key for key in CARRIED_BY_THE_COMMAND if not names(key, command)]
        _require_defaults(model, unsaid, "or let engine_settings.command carry it, with its name in braces")


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


def _require_defaults(model: ModelConfig, keys: Iterable[str], remedy: str) -> None:
    for key in keys:
        if getattr(model, key) != type(model).model_fields[key].default:
            raise ConfigError(
                f"{key} has no effect with engine {model.engine}", where=key, remedy=f"remove {key}; {remedy}"
            )


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


_API_EXECUTION_SETTINGS = frozenset(
    {"api_key_env", "max_concurrent_requests", "requests_per_minute", "timeout_s", "max_retries", "max_tokens_key"}
)
# Settings that say how fast, how often and how long, or pretend it; they never enter a fingerprint.
EXECUTION_SETTINGS: Mapping[str, frozenset[str]] = {
    "transformers": frozenset({"batching"}),
    "scripted": frozenset(
        {
            "seconds_per_token", "seconds_per_batch", "load_s", "memory_bytes",
            "fail_to_load", "crash_on", "crash_times", "fault_dir", "hang_on", "hang_times",
        }
    ),
    "endpoint": _API_EXECUTION_SETTINGS,
    "server": _API_EXECUTION_SETTINGS | {"health", "start_timeout_s", "stop_timeout_s", "log_dir"},
}  # fmt: skip
# Settings that `identity: NAME` stands for: where the model is asked, or how its server is started.
NAMED_BY_IDENTITY: Mapping[str, frozenset[str]] = {
    "endpoint": frozenset({"base_url"}),
    "server": frozenset({"command", "env"}),
}


def text_settings(engine: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the text; a local file is replaced by its content's hash."""
    ignored = EXECUTION_SETTINGS.get(engine, frozenset())
    if settings.get("identity") is not None:
        ignored |= NAMED_BY_IDENTITY.get(engine, frozenset())
    return {key: _content(value) for key, value in settings.items() if key not in ignored}


def _content(value: object) -> object:
    if isinstance(value, str) and is_local_path(value) and Path(value).expanduser().is_file():
        return {"sha256": file_sha256(Path(value).expanduser())}
    return value
