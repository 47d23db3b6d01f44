"""What a run is made of, read once: data sets, checkpoints, and what earlier sessions left in its directory."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import moe_ray.scoring.registry as grading
from moe_ray.checkpoints.files import require_tokenizer
from moe_ray.checkpoints.identity import Checkpoint, FileHashes, ModelIdentity, inspect_checkpoint
from moe_ray.config.checks import chats, unused_template
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import DataConfig, ExperimentConfig, is_local_path
from moe_ray.domains.example import Example
from moe_ray.domains.loading import LoadedDomain, assume_domain, load_domain
from moe_ray.domains.sources import Source, read_source, require_file, resolve_path
from moe_ray.engines.registry import require_checkpoint, validate_engine
from moe_ray.errors import ConfigError, OfflineError, Problems, UserError
from moe_ray.fingerprint import file_sha256
from moe_ray.store.records import Manifest
from moe_ray.store.reuse import data_changes
from moe_ray.store.run_directory import RunDirectory


@contextmanager
def located(experiment: LoadedExperiment) -> Iterator[None]:
    """Put the file and the line on an error that names a key of the experiment."""
    try:
        yield
    except UserError as error:
        if error.where and error.where.startswith(("models.", "domains.", "router.", "runtime.")):
            error.where = experiment.where(error.where)
        raise


class DataSets:
    """Reads data sets, each once: evaluation and router get the same records.

    Each call returns records of its own, so that a task that changes them does not affect others.
    """

    def __init__(self) -> None:
        self._sources: dict[tuple[str | None, ...], Source] = {}

    def read(self, data: DataConfig, base_dir: Path) -> Source:
        """Return all records of `data`. Raises what `read_source` raises."""
        key = _key(data, base_dir)
        if key not in self._sources:
            self._sources[key] = read_source(data, base_dir)
        source = self._sources[key]
        return replace(source, records=[dict(record) for record in source.records])

    def identity(self, data: DataConfig, base_dir: Path) -> dict[str, Any]:
        """Return what names the records of `data` wherever they lie: a local file's SHA-256, a hub data set's commit.

        A local file is not parsed for it. Raises `DataError` for a file that is missing.
        """
        key = _key(data, base_dir)
        if is_local_path(data.source):
            if key in self._sources:
                return {"sha256": self._sources[key].origin["sha256"]}
            path = resolve_path(data.source, base_dir)
            require_file(path)
            return {"sha256": file_sha256(path)}
        source = self._sources.get(key) or self.read(data, base_dir)
        origin = {name: value for name, value in source.origin.items() if name != "resolved"}
        return {**origin, "num_records": len(source.records)}

    def forget(self) -> None:
        """Free the records; a later `read` reads again."""
        self._sources.clear()


def _key(data: DataConfig, base_dir: Path) -> tuple[str | None, ...]:
    source = str(resolve_path(data.source, base_dir)) if is_local_path(data.source) else data.source
    return source, data.subset, data.split, data.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """An experiment with its data and its checkpoints, as read at the beginning of a command.

    `earlier` is the run's manifest as the last session left it, None for a new run. `changes` says in sentences what
    became of the data since then. `data_sets` holds the records as long as a router may have to be trained on them.
    """

    experiment: LoadedExperiment
    run: RunDirectory
    domains: Mapping[str, LoadedDomain]
    checkpoints: Mapping[str, Checkpoint]
    data_sets: DataSets
    earlier: Manifest | None
    changes: tuple[str, ...] = ()

    @property
    def config(self) -> ExperimentConfig:
        return self.experiment.config

    @property
    def base_dir(self) -> Path:
        """The experiment file's folder."""
        return self.experiment.base_dir

    @property
    def examples(self) -> dict[str, tuple[Example, ...]]:
        """The examples that the run evaluates, by domain."""
        return {name: domain.examples for name, domain in self.domains.items()}

    @property
    def identities(self) -> dict[str, ModelIdentity]:
        """What names each model's contents."""
        return {name: checkpoint.identity for name, checkpoint in self.checkpoints.items()}

    @property
    def grader_names(self) -> dict[str, tuple[str, ...]]:
        """The graders of each domain."""
        return {name: domain.graders for name, domain in self.domains.items()}


def read_inputs(experiment: LoadedExperiment, *, with_models: bool = True, assume_unreachable: bool = False) -> Inputs:
    """Read data and checkpoints. Starts nothing, writes nothing but caches.

    Without `with_models` no checkpoint is looked at. With `assume_unreachable`, data sets on a hub that cannot be
    reached are replaced by made-up ones: enough for a plan. Raises one `UserError` of all that is wrong.
    """
    config, problems, data_sets = experiment.config, Problems(), DataSets()
    domains = _load_domains(experiment, data_sets, problems, assume_unreachable)
    checkpoints = inspect_checkpoints(experiment, problems) if with_models else {}
    problems.raise_if_any()
    if config.router is None or config.router.path is not None:
        data_sets.forget()
    run = RunDirectory(config.output.results_dir / config.name)
    examples = {name: domain.examples for name, domain in domains.items()}
    fingerprints = {name: domain.data_fingerprint for name, domain in domains.items()}
    return Inputs(
        experiment=experiment,
        run=run,
        domains=domains,
        checkpoints=checkpoints,
        data_sets=data_sets,
        earlier=run.manifest() if run.exists else None,
        changes=tuple(data_changes(run, examples, fingerprints)),
    )


def _load_domains(
    experiment: LoadedExperiment, data_sets: DataSets, problems: Problems, assume_unreachable: bool
) -> dict[str, LoadedDomain]:
    domains: dict[str, LoadedDomain] = {}
    for name, domain in experiment.config.domains.items():
        with problems.gathered(), located(experiment):
            try:
                domains[name] = load_domain(name, domain, experiment.base_dir, data_sets.read)
            except OfflineError:
                if not assume_unreachable:
                    raise
                domains[name] = assume_domain(name, domain, experiment.base_dir)
            domains[name] = _with_template_note(name, experiment.config, domains[name])
            grading.check_grader_names(domains[name].graders, where=f"domains.{name}.graders", domain=domain)
    return domains


def _with_template_note(name: str, config: ExperimentConfig, domain: LoadedDomain) -> LoadedDomain:
    """Refuse a template that no model of the domain is asked with; note one that some are not asked with."""
    unused = unused_template(name, config)
    if unused is None:
        return domain
    if not chats(name, config):
        raise ConfigError(
            unused,
            where=f"domains.{name}.prompt.template",
            remedy="write it as prompt.completion_template, the whole text of the completion style",
        )
    return replace(domain, notes=(*domain.notes, f"{name}: {unused}."))


def inspect_checkpoints(experiment: LoadedExperiment, problems: Problems) -> dict[str, Checkpoint]:
    hashes = FileHashes()
    checkpoints: dict[str, Checkpoint] = {}
    for name, model in experiment.config.models.items():
        with problems.gathered(), located(experiment):
            with _within_model(name):
                validate_engine(model)
            checkpoints[name] = inspect_checkpoint(name, model, hashes)
            with _within_model(name):
                require_checkpoint(model, checkpoints[name].config)
            require_tokenizer(name, model)
    hashes.save()
    return checkpoints


@contextmanager
def _within_model(name: str) -> Iterator[None]:
    """Name the model's section in a `ConfigError` that names a key within it."""
    try:
        yield
    except ConfigError as error:
        error.where = f"models.{name}.{error.where}"
        raise


def code_of_task(domain: LoadedDomain) -> str | None:
    """Return the SHA-256 of the file of a task of the user's own; None for one that ships."""
    kind = type(domain.task)
    if kind.__module__.partition(".")[0] == __package__.partition(".")[0]:
        return None
    path = Path(inspect.getfile(kind))
    return file_sha256(path) if path.is_file() else None
