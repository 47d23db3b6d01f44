"""What decides the text of an experiment's answers, and how two experiments differ in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moe_ray.config.schema import DomainConfig, ExperimentConfig, ModelConfig, is_local_path
from moe_ray.config.tree import dotted
from moe_ray.fingerprint import canonical_json

MAX_SHOWN = 120

_ABSENT = "absent"
_LOCAL = "local"

# (engine, its settings) -> those of them that decide the text; engines know, this package does not.
TextSettings = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


def _all_settings(_engine: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return settings


def identity(
    config: ExperimentConfig,
    *,
    text_settings: TextSettings = _all_settings,
    model_fingerprints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what decides the text: models, domains, decoding; and whether likelihoods are measured. Values of JSON.

    `text_settings` picks the engine settings that decide the text (`moe_ray.engines.registry.text_settings`).
    Left out is what only says which cells are wanted (baseline, expert, matrix, max_examples, graders), where and how
    fast (runtime, output, gpus), how answers are read (reasoning), and notes. `chat_template_kwargs` stand there only
    where they are set. A local path is not identity either: it stands as "local", and the fingerprints of the models'
    contents, where given, stand beside it. The data's contents are left out: what a record asks is in the key of its
    cell, so that data may grow, and a changed record is another cell.
    """
    models = {name: _model(model, text_settings) for name, model in config.models.items()}
    domains = {name: _domain(domain, config) for name, domain in config.domains.items()}
    _add(models, model_fingerprints)
    decoding = config.decoding.model_dump(mode="json", exclude={"max_new_tokens"})
    return {"models": models, "domains": domains, "decoding": decoding, "likelihood": config.likelihood}


def _model(model: ModelConfig, text_settings: TextSettings) -> dict[str, Any]:
    values = model.model_dump(mode="json", exclude={"gpus", "notes", "reasoning", "chat_template_kwargs"})
    if model.chat_template_kwargs:
        values["chat_template_kwargs"] = model.chat_template_kwargs
    values["path"] = _source(model.path)
    settings = text_settings(model.engine, model.engine_settings)
    values["engine_settings"] = {name: _source(value) for name, value in settings.items()}
    values["tokenizer"] = None if model.tokenizer is None else _source(model.tokenizer)
    return values


def _domain(domain: DomainConfig, config: ExperimentConfig) -> dict[str, Any]:
    values = domain.model_dump(mode="json", exclude={"expert", "max_examples", "graders", "notes"})
    values["data"] = domain.data.model_dump(mode="json", exclude={"ids_file"}) | {"source": _source(domain.data.source)}
    values["max_new_tokens"] = domain.max_new_tokens or config.decoding.max_new_tokens
    return values


def _source(source: Any) -> Any:
    return _LOCAL if isinstance(source, str) and is_local_path(source) else source


def _add(sections: Mapping[str, dict[str, Any]], fingerprints: Mapping[str, str] | None) -> None:
    for name, fingerprint in (fingerprints or {}).items():
        sections[name]["fingerprint"] = fingerprint


def describe_drift(old: Mapping[str, Any], new: Mapping[str, Any], *, shared_only: bool = False) -> list[str]:
    """Return one line for each difference between two identities: "models.x.dtype: float32 -> bfloat16".

    With `shared_only`, models and domains that one of them lacks are no difference: a run may grow.
    """
    if shared_only:
        old, new = _shared(old, new), _shared(new, old)
    return list(_differences(old, new, ()))


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    sections = {
        name: {key: one[name][key] for key in one[name] if key in other[name]} for name in ("models", "domains")
    }
    return {**one, **sections}


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
    elif _plain(old) != _plain(new):
        yield f"{dotted(path)}: {_shown(old)} -> {_shown(new)}"


def _plain(value: Any) -> Any:
    """Tuples and lists are the same thing, as in JSON."""
    return canonical_json(value)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = f"[{', '.join(map(str, value))}]"
    else:
        text = {None: "none", True: "true", False: "false"}.get(value, str(value)) if _is_word(value) else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)
