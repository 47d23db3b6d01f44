"""The router that an experiment wants: its texts, its name and its directory. Trains nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from moe_ray.checkpoints.identity import FileHashes, identity_hashes
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import OTHER, DataConfig, ExperimentConfig, RouterConfig, is_local_path
from moe_ray.domains.example import Example
from moe_ray.domains.loading import is_assumed
from moe_ray.domains.sources import ReadSource, read_source, require_file, resolve_path
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ConfigError, DataError, OfflineError
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.routing.files import ROUTER_FILE, read_record
from moe_ray.routing.router import require_domains
from moe_ray.runs.inputs import Inputs, code_of_task, located
from moe_ray.store.run_directory import RunDirectory
from moe_ray.texts.cleaning import TEXTS_VERSION, TextSource
from moe_ray.texts.corpus import MIN_TEXTS, Shares, make_corpus
from moe_ray.texts.labelled import REASONS, DataReport, Reason, RouterTexts, SourceReport, texts_fingerprint
from moe_ray.texts.sources import data_of, domain_source, other_sources

Query = Literal["question", "prompt"]

FINGERPRINT_CHARACTERS = 8
# What decides no weight, or stands in the name by its contents.
_NOT_IN_NAME = frozenset({"gpus", "path", "data", "other"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRouter:
    """The router that an experiment wants.

    `query` says what of an example the router reads: what it was trained on. `fingerprint` is what routes call the
    router that they come from. `name` is what the experiment asks for, None for a router that was trained elsewhere.
    The two differ where an earlier version of moe_ray trained it, which named routers by their texts. Unless it
    `is_certain`, such a router may have learned from other texts than those that are wanted.
    """

    config: RouterConfig
    query: Query
    directory: Path
    fingerprint: str
    name: str | None
    is_certain: bool = True

    @property
    def is_there(self) -> bool:
        return (self.directory / ROUTER_FILE).is_file()


def wanted_router(inputs: Inputs) -> WantedRouter:
    """Find out which router the experiment wants, and where it is or will be. Makes no texts and trains nothing.

    Raises the `UserError` of what is wrong with the section, and `OfflineError` when its data cannot be reached.
    """
    config = _with_base_model(inputs.config, required_router(inputs.experiment))
    if config.path is not None:
        return _given(config, Path(config.path), tuple(inputs.config.domains))
    hashes = FileHashes()
    name = _name(inputs, config, hashes)
    hashes.save()
    wanted = WantedRouter(
        config=config,
        query=config.query,
        directory=router_directory(inputs.run, config, name),
        fingerprint=name,
        name=name,
    )
    return wanted if wanted.is_there else _of_earlier_session(inputs, wanted) or wanted


def router_directory(run: RunDirectory, config: RouterConfig, name: str) -> Path:
    """Return where a router that the run trains is kept."""
    return run.router_path(f"{run.routers_path.name}/{config.kind}-{name[:FINGERPRINT_CHARACTERS]}")


def named_by_texts(wanted: WantedRouter, run: RunDirectory, texts: RouterTexts) -> WantedRouter:
    """Return the router that an earlier version trained on these `texts`, and named by them, if it is there."""
    hashes = FileHashes()
    name = fingerprint({"section": _section(wanted.config, hashes), "texts": texts_fingerprint(texts)})
    directory = router_directory(run, wanted.config, name)
    return replace(wanted, directory=directory, fingerprint=name, is_certain=True)


def _given(config: RouterConfig, directory: Path, domains: Sequence[str]) -> WantedRouter:
    """A router that is trained already, of these domains."""
    record = read_record(directory)
    known = [label for label in record.labels if label != OTHER]
    require_domains(known, domains, where="router.path")
    found = record.fingerprint or fingerprint(str(directory))
    return WantedRouter(config=config, query=record.query, directory=directory, fingerprint=found, name=None)


def _with_base_model(config: ExperimentConfig, router: RouterConfig) -> RouterConfig:
    """The router's section, with the baseline's checkpoint for a gating network that names no other."""
    if router.kind != "embedding" or router.base_model or router.path:
        return router
    baseline = config.models.get(config.baseline or "")
    if baseline is None or not settings_class(baseline.engine).loads_checkpoint:
        raise ConfigError(
            "kind embedding needs a causal model, and there is no baseline with a checkpoint to take",
            where="router.kind",
            remedy="name one under router.base_model",
        )
    return router.model_copy(update={"base_model": baseline.path, "revision": baseline.revision})


def _name(inputs: Inputs, config: RouterConfig, hashes: FileHashes) -> str:
    sets = [
        [texts.column, texts.use, texts.max_texts, inputs.data_sets.identity(data_of(texts), inputs.base_dir)]
        for texts in config.other
    ]
    domains = [[name, _domain(inputs, config, name)] for name in inputs.config.domains]
    section = _section(config, hashes)
    return fingerprint({"section": section, "domains": domains, "other": sets, "version": TEXTS_VERSION})


def _section(config: RouterConfig, hashes: FileHashes) -> dict[str, Any]:
    """The section without what lies where, or runs where; a local base model stands there by its contents."""
    section = config.model_dump(mode="json", by_alias=True, exclude=set(_NOT_IN_NAME))
    for key in ("base_model", "tokenizer"):
        if section[key] is not None and is_local_path(section[key]):
            section[key] = _contents(Path(section[key]), hashes)
    return section


def _contents(directory: Path, hashes: FileHashes) -> dict[str, str]:
    return identity_hashes(directory, hashes.sha256) if directory.is_dir() else {}


def _domain(inputs: Inputs, config: RouterConfig, name: str) -> dict[str, Any]:
    """What decides the texts of a domain, and which of them are the run's."""
    section, loaded = inputs.config.domains[name], inputs.domains[name]
    if is_assumed(loaded):
        raise OfflineError("its data cannot be reached", where=f"domains.{name}.data", remedy="reach the hub")
    own = config.data.get(name)
    return {
        "task": section.model_dump(mode="json", include={"task", "columns", "choices", "prompt"}),
        "settings": {key: _setting(inputs, key, value) for key, value in section.settings.items()},
        "code": code_of_task(loaded),
        "asked": sorted(example.id for example in loaded.examples),
        "data": inputs.data_sets.identity(section.data, inputs.base_dir),
        "own": own and _own_data(inputs, own),
    }


def _own_data(inputs: Inputs, own: DataConfig) -> dict[str, Any]:
    listed = None if own.ids_file is None else _file(inputs, own.ids_file)
    return {**inputs.data_sets.identity(own, inputs.base_dir), "ids_file": listed}


def _setting(inputs: Inputs, key: str, value: object) -> object:
    """A setting of a task; a file by its contents."""
    return _file(inputs, value) if key.endswith("_file") and isinstance(value, str) else value


def _file(inputs: Inputs, name: str) -> str:
    path = resolve_path(name, inputs.base_dir)
    require_file(path)
    return file_sha256(path)


def _of_earlier_session(inputs: Inputs, wanted: WantedRouter) -> WantedRouter | None:
    """The router of the run's last session, if it is the wanted one under the name of an earlier version."""
    record = inputs.earlier.router if inputs.earlier is not None else None
    place, known = (record or {}).get("path"), (record or {}).get("fingerprint")
    if record is None or not isinstance(place, str) or not isinstance(known, str) or Path(place).is_absolute():
        return None
    found = replace(wanted, directory=inputs.run.router_path(place), fingerprint=known)
    if "name" in record:
        return found if record["name"] == wanted.name and found.is_there else None
    if not found.is_there or not _is_section_of(record, wanted.config) or not _has_same_data(inputs):
        return None
    config = wanted.config
    contents = [value for value in (config.base_model, config.tokenizer) if value is not None and is_local_path(value)]
    return replace(found, is_certain=not (config.data or config.other or contents))


def _is_section_of(record: Mapping[str, Any], config: RouterConfig) -> bool:
    """Say whether the recorded router was trained by `config`, according to its settings."""
    settings = record.get("settings")
    if not isinstance(settings, dict):
        return False
    wanted = config.model_dump(mode="json", by_alias=True)
    unknown = {key for key in ("base_model", "tokenizer") if wanted[key] is not None and is_local_path(wanted[key])}
    same = [key for key in wanted if key not in _NOT_IN_NAME | unknown]
    return all(key in settings and settings[key] == wanted[key] for key in same)


def _has_same_data(inputs: Inputs) -> bool:
    """Say whether each domain's data, and the examples drawn of it, are those of the last session."""
    earlier = {} if inputs.earlier is None else inputs.earlier.domains
    return list(earlier) == list(inputs.domains) and all(
        _data_facts(earlier[name]) == _data_facts(domain.data_fingerprint) for name, domain in inputs.domains.items()
    )


def _data_facts(record: Mapping[str, Any]) -> list[Any]:
    listed = record.get("ids_file")
    ids = listed.get("sha256") if isinstance(listed, Mapping) else None
    return [*(record.get(key) for key in ("sha256", "revision", "num_records", "num_examples")), ids]


class RouterData(NamedTuple):
    """A router's texts, and the report on the records that they were made from."""

    texts: RouterTexts
    report: DataReport


def read_texts(
    experiment: LoadedExperiment,
    run_examples: Mapping[str, Sequence[Example]],
    *,
    read: ReadSource = read_source,
    near_duplicates: bool = True,
) -> RouterData:
    """Read the texts of the experiment's router; `run_examples` are the examples that the run evaluates, by domain.

    None of the texts is one of those examples, or nearly the same as one, or as another text. They follow from the
    records, not from the order of them, and a text stays in its split when records are added. A text's id begins with
    its domain, or with `other` and the name of its set. Without `near_duplicates` no near duplicates are searched and
    left out: enough to say how many texts there are at most.

    Raises `ConfigError` without a section `router`, and `DataError` when a domain's data cannot be read or when fewer
    than `MIN_TEXTS` texts of a label, or none of an out-of-domain set, are left.
    """
    router = required_router(experiment)
    with located(experiment):
        sources, run_forms = _sources(experiment, router, run_examples, read)
        corpus = make_corpus(
            sources,
            run_forms=run_forms,
            require=lambda reports: _require_enough(reports, router),
            shares=Shares(test=router.test_fraction, validation=router.validation_fraction),
            balance=router.balance,
            near_duplicates=near_duplicates,
        )
    train, validation, test = corpus.splits
    return RouterData(
        RouterTexts(labels=corpus.labels, train=train, validation=validation, test=test, out_of_domain=corpus.held_out),
        DataReport(sources=corpus.sources, num_unbalanced=corpus.num_unbalanced),
    )


def required_router(experiment: LoadedExperiment) -> RouterConfig:
    """Return the experiment's section `router`. Raises `ConfigError` where there is none."""
    if experiment.config.router is None:
        raise ConfigError(
            "the experiment has no router", where=str(experiment.path), remedy="add a section `router:` to it"
        )
    return experiment.config.router


def _sources(
    experiment: LoadedExperiment,
    router: RouterConfig,
    run_examples: Mapping[str, Sequence[Example]],
    read: ReadSource,
) -> tuple[list[TextSource], list[str]]:
    """The sources of the router's texts, and the forms of the queries that the run asks."""
    sources, run_forms = [], []
    for name, domain in experiment.config.domains.items():
        source, forms = domain_source(name, domain, router, run_examples.get(name, ()), experiment.base_dir, read)
        sources.append(source)
        run_forms += forms
    return [*sources, *other_sources(router, experiment.base_dir, read)], run_forms


def _require_enough(reports: Sequence[SourceReport], router: RouterConfig) -> None:
    taught = [source for source in reports if source.label == OTHER and source.use == "train"]
    if taught:
        _require(taught, MIN_TEXTS, where="router.other", remedy="give more of them, or none")
    for source in reports:
        if source.use == "test":
            _require([source], 1, where="router.other", remedy="name another set, or remove this one")
        elif source.label != OTHER:
            own = source.name in router.data
            _require(
                [source],
                MIN_TEXTS,
                where=f"router.data.{source.name}" if own else f"domains.{source.name}.data",
                remedy=f"lower domains.{source.name}.max_examples, which leaves more records to the router; "
                f"or name {'other' if own else 'its own'} records under router.data.{source.name}",
            )


def _require(sources: Sequence[SourceReport], num_needed: int, *, where: str, remedy: str) -> None:
    """Raise `DataError`, with the counts of dropped records, if fewer texts than `num_needed` are left."""
    num_kept = sum(source.num_kept for source in sources)
    if num_kept >= num_needed:
        return
    dropped = sum((Counter(source.dropped) for source in sources), Counter[Reason]())
    raise DataError(
        f"{num_kept} texts of {', '.join(source.name for source in sources)} are left for the router, which needs "
        f"{num_needed}; of {sum(source.num_records for source in sources)} records were left out: "
        f"{', '.join(f'{number} ({REASONS[reason]})' for reason, number in dropped.items()) or 'none'}",
        where=where,
        remedy=remedy,
    )
