"""Local paths of an experiment, made absolute so that it means the same in every folder; and the cache's."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from moe_ray.config.schema import (
    LOCAL_PATH_PREFIXES,
    DataConfig,
    DomainConfig,
    ExperimentConfig,
    GraderConfig,
    ModelConfig,
    RouterConfig,
    is_local_path,
)
from moe_ray.config.section import Section
from moe_ray.config.serving import ServingConfig
from moe_ray.config.tree import KeyPath

BaseOf = Callable[[KeyPath], Path]
SectionT = TypeVar("SectionT", bound=Section)


def cache_directory() -> Path:
    """The folder for what moe_ray can make again: $MOE_RAY_CACHE, else ~/.cache/moe_ray."""
    configured = os.environ.get("MOE_RAY_CACHE")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "moe_ray"


def resolve(config: ExperimentConfig, base_of: BaseOf) -> ExperimentConfig:
    """Make the local paths of models, data and serving absolute; `base_of` gives the base folder of a key.

    So are texts in `engine_settings` that are spelled as paths. Hub ids stay. `output.results_dir` and
    `runtime.temp_dir` stay as they are: relative to the current folder.
    """
    models = {name: _model(model, ("models", name), base_of) for name, model in config.models.items()}
    domains = {name: _domain(domain, ("domains", name), base_of) for name, domain in config.domains.items()}
    router = config.router and _router(config.router, base_of)
    serving = _serving(config.serving, base_of)
    return _with(config, {"models": models, "domains": domains, "router": router, "serving": serving})


def _serving(serving: ServingConfig, base_of: BaseOf) -> ServingConfig:
    """Processes of Ray have other working directories than the command."""
    given = {name: getattr(serving, name) for name in ("api_keys_file", "record_dir")}
    changes = {
        name: Path(_absolute(str(path), base_of(("serving", name)))) for name, path in given.items() if path is not None
    }
    return _with(serving, changes)


def _model(model: ModelConfig, key: KeyPath, base_of: BaseOf) -> ModelConfig:
    changes: dict[str, Any] = {"path": _local(model.path, (*key, "path"), base_of)}
    changes["engine_settings"] = {
        name: _setting(value, (*key, "engine_settings", name), base_of) for name, value in model.engine_settings.items()
    }
    if model.tokenizer is not None:
        changes["tokenizer"] = _local(model.tokenizer, (*key, "tokenizer"), base_of)
    return _with(model, changes)


def _domain(domain: DomainConfig, key: KeyPath, base_of: BaseOf) -> DomainConfig:
    graders = domain.graders and tuple(_grader(one, (*key, "graders"), base_of) for one in domain.graders)
    return _with(domain, {"data": _data(domain.data, (*key, "data"), base_of), "graders": graders})


def _data(data: DataConfig, key: KeyPath, base_of: BaseOf) -> DataConfig:
    changes = {"source": _local(data.source, (*key, "source"), base_of)}
    if data.ids_file is not None:
        changes["ids_file"] = _absolute(data.ids_file, base_of((*key, "ids_file")))
    return _with(data, changes)


def _router(router: RouterConfig, base_of: BaseOf) -> RouterConfig:
    """The router's own directory is always local: no hub has a router with its thresholds."""
    given = {name: getattr(router, name) for name in ("base_model", "tokenizer")}
    changes: dict[str, Any] = {
        name: _local(value, ("router", name), base_of) for name, value in given.items() if value is not None
    }
    if router.path is not None:
        changes["path"] = _absolute(router.path, base_of(("router", "path")))
    changes["data"] = {name: _data(data, ("router", "data", name), base_of) for name, data in router.data.items()}
    changes["other"] = tuple(
        _with(texts, {"source": _local(texts.source, ("router", "other", str(at), "source"), base_of)})
        for at, texts in enumerate(router.other)
    )
    return _with(router, changes)


def _grader(grader: str | GraderConfig, key: KeyPath, base_of: BaseOf) -> str | GraderConfig:
    """A metric script of the user's own is a path behind a prefix."""
    if isinstance(grader, str):
        prefix, colon, path = grader.partition(":")
        return f"{prefix}:{_local(path, key, base_of)}" if colon and path.startswith(LOCAL_PATH_PREFIXES) else grader
    settings = dict(grader.settings)
    if ":" in grader.name:
        # The settings of those that ship hold no paths, but patterns that may look like one.
        settings = {name: _setting(value, (*key, name), base_of) for name, value in settings.items()}
    return _with(grader, {"name": _grader(grader.name, key, base_of), "settings": settings})


def _setting(value: Any, key: KeyPath, base_of: BaseOf) -> Any:
    """Settings are any engine's own: what is spelled as a path and holds no space is taken for one."""
    is_path = isinstance(value, str) and not any(letter.isspace() for letter in value)
    return _local(value, key, base_of) if is_path else value


def _local(source: str, key: KeyPath, base_of: BaseOf) -> str:
    return _absolute(source, base_of(key)) if is_local_path(source) else source


def _absolute(path: str, base: Path) -> str:
    """Join and tidy without following links: a link names a model as well as its target does."""
    return os.path.normpath(base.absolute() / Path(path).expanduser())


def _with(section: SectionT, changes: Mapping[str, Any]) -> SectionT:
    return section.model_copy(update=changes)
