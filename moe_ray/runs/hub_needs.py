"""What an experiment takes from the hub and from local paths, and what of it a machine without network lacks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from moe_ray.checkpoints.hub_cache import cached_snapshot
from moe_ray.checkpoints.repository import Repository, repositories_of
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import DataConfig, ExperimentConfig, RouterConfig, is_local_path
from moe_ray.domains.sources import read_source, resolve_path
from moe_ray.engines.registry import settings_class
from moe_ray.errors import DataError
from moe_ray.scoring.registry import EVALUATE_PREFIX
from moe_ray.texts.sources import data_of


class HubData(NamedTuple):
    """A data set of the hub, and the config key that names it."""

    key: str
    data: DataConfig


def hub_repositories(config: ExperimentConfig) -> list[Repository]:
    """Return the repositories of all models and of the router's base model, each once."""
    found: dict[tuple[object, ...], Repository] = {}
    for one in (*repositories_of(config, None), *_of_router(config.router)):
        found.setdefault((one.repo, one.revision, one.role, one.code), one)
    return list(found.values())


def _of_router(router: RouterConfig | None) -> Iterator[Repository]:
    """A gating network without a base model of its own takes the baseline's, which is one of the models."""
    if router is None or router.path is not None or router.kind == "tfidf":
        return
    if router.architecture is not None:
        if router.tokenizer is not None and not is_local_path(router.tokenizer):
            yield Repository(
                key="router.tokenizer", role="tokenizer", repo=router.tokenizer, revision=router.revision, code=False
            )
        return
    base = router.base_model
    if base is None and router.kind == "transformer":
        from moe_ray.routing.transformer.encoder import DEFAULT_BASE

        base = DEFAULT_BASE
    if base is not None and not is_local_path(base):
        role: Literal["path", "tokenizer"] = "tokenizer" if router.from_scratch else "path"
        yield Repository(key="router.base_model", role=role, repo=base, revision=router.revision, code=False)


def hub_data(config: ExperimentConfig) -> list[HubData]:
    """Return the data sets of the hub that domains, their worked examples and the router read, each once."""
    found: dict[str, HubData] = {}
    for one in _data_sections(config):
        if not is_local_path(one.data.source):
            found.setdefault(one.data.model_dump_json(exclude={"ids_file"}), one)
    return list(found.values())


def _data_sections(config: ExperimentConfig) -> Iterator[HubData]:
    for name, domain in config.domains.items():
        yield HubData(f"domains.{name}.data", domain.data)
        split = domain.settings.get("shots_split")
        if split is not None:
            data = domain.data.model_copy(update={"split": str(split)})
            yield HubData(f"domains.{name}.settings.shots_split", data)
    if config.router is None or config.router.path is not None:
        return
    for name, own in config.router.data.items():
        yield HubData(f"router.data.{name}", own)
    for at, texts in enumerate(config.router.other):
        yield HubData(f"router.other.{at}", data_of(texts))


def hub_metrics(config: ExperimentConfig) -> dict[str, list[str]]:
    """Return the metrics of the `evaluate` library by domain; scripts of the user's own are left out."""
    named = {name: domain.grader_names or () for name, domain in config.domains.items()}
    metrics = {
        name: [one for one in names if one.startswith(EVALUATE_PREFIX) and not _is_script(one)]
        for name, names in named.items()
    }
    return {name: found for name, found in metrics.items() if found}


def _is_script(grader: str) -> bool:
    spec = grader.removeprefix(EVALUATE_PREFIX)
    return is_local_path(spec) or spec.endswith(".py")


def local_paths(experiment: LoadedExperiment) -> dict[str, Path]:
    """Return the files and folders that the experiment reads, by config key."""
    config, found = experiment.config, dict[str, Path]()
    for name, model in config.models.items():
        if settings_class(model.engine).has_files:
            named = {"path": model.path, "tokenizer": model.tokenizer}
            found |= {
                f"models.{name}.{key}": Path(place).expanduser()
                for key, place in named.items()
                if place is not None and is_local_path(place)
            }
    for name, domain in config.domains.items():
        for key, value in domain.settings.items():
            if key.endswith("_file") and isinstance(value, str):
                found[f"domains.{name}.settings.{key}"] = resolve_path(value, experiment.base_dir)
    for key, data in _data_sections(config):
        if is_local_path(data.source):
            found[key] = resolve_path(data.source, experiment.base_dir)
        if data.ids_file is not None:
            found[f"{key}.ids_file"] = resolve_path(data.ids_file, experiment.base_dir)
    if config.router is not None:
        named = {name: getattr(config.router, name) for name in ("path", "base_model", "tokenizer")}
        local = {key: place for key, place in named.items() if place is not None}
        found |= {
            f"router.{key}": Path(place).expanduser()
            for key, place in local.items()
            if key == "path" or is_local_path(place)
        }
    return found


def missing_offline(experiment: LoadedExperiment) -> Mapping[str, str]:
    """Return what this machine would have to fetch from the hub, by config key. Makes no request.

    Metrics of `evaluate` are not looked at. Call it with HF_HUB_OFFLINE set before the hub's libraries load.
    """
    lacking: dict[str, str] = {}
    for one in hub_repositories(experiment.config):
        if cached_snapshot(one.repo, one.revision, weights=one.role == "path") is None:
            lacking[one.key] = one.repo + (f" at {one.revision}" if one.revision else "")
    for key, data in hub_data(experiment.config):
        try:
            read_source(data, experiment.base_dir)
        except DataError:
            lacking[key] = f"{data.source}, split {data.split}"
    return lacking
