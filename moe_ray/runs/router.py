"""The steps of the router in a run: which router is needed, where it is, and its routes of the run's examples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moe_ray.checkpoints.identity import FileHashes, identity_files
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import OTHER, ExperimentConfig, RouterConfig, is_local_path
from moe_ray.domains.example import Example, query_of
from moe_ray.domains.loading import load_domain
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ConfigError
from moe_ray.execution.observer import Join, RunObserver, joining
from moe_ray.files import write_directory_atomically
from moe_ray.fingerprint import fingerprint
from moe_ray.progress import TrainingProgress
from moe_ray.routing.files import ROUTER_FILE, read_record, read_test_results
from moe_ray.routing.results import RouterTestResults
from moe_ray.routing.router import require_domains
from moe_ray.runs.preparation import Prepared, located
from moe_ray.runs.router_tasks import (
    Routed,
    RouterTrainingJob,
    RoutingJob,
    Trained,
    read_files,
    route_queries,
    train_router,
    write_files,
)
from moe_ray.runs.router_texts import RouterData, read_texts
from moe_ray.store.records import Manifest
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory
from moe_ray.texts.files import texts_fingerprint
from moe_ray.texts.labelled import RouterTexts

if TYPE_CHECKING:
    from moe_ray.execution.tasks import Retries

Query = Literal["question", "prompt"]
Examples = Mapping[str, Sequence[Example]]

FINGERPRINT_CHARACTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRouter:
    """The router that an experiment wants. `data` is None for one that was trained elsewhere.

    `query` says what of an example the router reads: what it was trained on.
    """

    config: RouterConfig
    query: Query
    directory: Path
    fingerprint: str
    data: RouterData | None

    @property
    def is_there(self) -> bool:
        return (self.directory / ROUTER_FILE).is_file()


def current_routes(
    experiment: LoadedExperiment, prepared: Prepared, manifest: Manifest, join: Join, observer: RunObserver
) -> Routes:
    """Return what the wanted router says of the run's examples. What is not there yet is trained, asked and kept."""
    run, config, examples = prepared.run, experiment.config, prepared.examples
    with located(experiment):
        wanted = wanted_router(experiment, examples, run)
        routes = run.routes()
        if routes is None or manifest.router is None or not covers(routes, wanted, examples):
            obtain_router(wanted, config, join, observer)
            routes, manifest.router = route_examples(wanted, config, prepared, join, observer)
            run.write_routes(routes)
            run.write_manifest(manifest)
    return routes


def trained_router(experiment: LoadedExperiment, observer: RunObserver) -> tuple[Path, RouterTestResults | None]:
    """Train the wanted router, unless it is there. Needs the run's examples, to leave them out, but no model."""
    config = experiment.config
    if config.router is None:
        raise ConfigError(
            "the experiment has no router", where=str(experiment.path), remedy="add a section `router:` to it"
        )
    observer.stage("Reading data")
    run = RunDirectory(config.output.results_dir / config.name)
    with located(experiment):
        domains = {name: load_domain(name, domain, experiment.base_dir) for name, domain in config.domains.items()}
        wanted = wanted_router(experiment, {name: domain.examples for name, domain in domains.items()}, run)
        with joining(config.runtime, observer) as join:
            obtain_router(wanted, config, join, observer)
    return wanted.directory, read_test_results(wanted.directory)


def wanted_router(experiment: LoadedExperiment, examples: Examples, run: RunDirectory) -> WantedRouter:
    """Find out which router the experiment wants; reads the texts that it would be trained on, and trains nothing.

    `examples` are the run's: no router is trained on them. Raises the `UserError` of what is wrong with the section.
    """
    config = _with_base_model(experiment.config)
    if config.path is not None:
        return _given(config, Path(config.path), tuple(experiment.config.domains))
    data = read_texts(experiment, examples)
    hashes = FileHashes()
    name = _fingerprint(config, data.texts, hashes)
    hashes.save()
    directory = run.router_path(f"{run.routers_path.name}/{config.kind}-{name[:FINGERPRINT_CHARACTERS]}")
    return WantedRouter(config=config, query=config.query, directory=directory, fingerprint=name, data=data)


def _given(config: RouterConfig, directory: Path, domains: Sequence[str]) -> WantedRouter:
    """A router that is trained already, of these domains."""
    record = read_record(directory)
    known = [label for label in record.labels if label != OTHER]
    require_domains(known, domains, where="router.path")
    name = record.fingerprint or fingerprint(str(directory))
    return WantedRouter(config=config, query=record.query, directory=directory, fingerprint=name, data=None)


def _with_base_model(config: ExperimentConfig) -> RouterConfig:
    """The router's section, with the baseline's checkpoint for a gating network that names no other."""
    assert config.router is not None
    if config.router.kind != "embedding" or config.router.base_model or config.router.path:
        return config.router
    baseline = config.models.get(config.baseline or "")
    if baseline is None or not settings_class(baseline.engine).loads_checkpoint:
        raise ConfigError(
            "kind embedding needs a causal model, and there is no baseline with a checkpoint to take",
            where="router.kind",
            remedy="name one under router.base_model",
        )
    return config.router.model_copy(update={"base_model": baseline.path, "revision": baseline.revision})


def _fingerprint(config: RouterConfig, texts: RouterTexts, hashes: FileHashes) -> str:
    """What decides a router's weights: its section, its base model, its texts; not where they lie, nor the device."""
    section = config.model_dump(mode="json", exclude={"gpus", "path", "data", "other"})
    for key in ("base_model", "tokenizer"):
        if section[key] is not None and is_local_path(section[key]):
            section[key] = _contents(Path(section[key]), hashes)
    return fingerprint({"section": section, "texts": texts_fingerprint(texts)})


def _contents(directory: Path, hashes: FileHashes) -> dict[str, str]:
    return {path.name: hashes.sha256(path) for path in identity_files(directory)} if directory.is_dir() else {}


def obtain_router(wanted: WantedRouter, config: ExperimentConfig, join: Join, observer: RunObserver) -> None:
    """Train the router as a Ray task, unless it is there: then nothing happens."""
    if wanted.is_there or wanted.data is None:
        return
    from moe_ray.execution.tasks import stream_task, task_size

    join()
    texts = wanted.data.texts
    observer.stage(f"Training the router on {len(texts.train):,} texts")
    job = RouterTrainingJob(config=wanted.config, texts=texts, num_threads=config.runtime.cpu_threads)
    retries = _retries(config, "the router's training", observer)
    for event in stream_task(train_router, job, task_size(config.runtime, wanted.config.gpus), retries):
        if isinstance(event, Trained):
            _install(event, wanted.directory)
        else:
            observer.training(event.step, event.num_steps, _detail(event))


def _retries(config: ExperimentConfig, name: str, observer: RunObserver) -> "Retries":
    from moe_ray.execution.tasks import Retries

    return Retries(max_attempts=config.runtime.max_attempts, name=lambda _job: name, on_retry=observer.notice)


def _install(trained: Trained, directory: Path) -> None:
    write_directory_atomically(directory, lambda folder: write_files(trained.files, folder))


def _detail(event: TrainingProgress) -> str:
    parts = [f"epoch {event.epoch:.1f}"]
    parts += [f"loss {event.loss:.3f}"] if event.loss is not None else []
    parts += [f"macro-F1 {event.macro_f1:.3f}"] if event.macro_f1 is not None else []
    return ", ".join(parts)


def route_examples(
    wanted: WantedRouter, config: ExperimentConfig, prepared: Prepared, join: Join, observer: RunObserver
) -> tuple[Routes, dict[str, Any]]:
    """Ask the router for every example, as a Ray task. Returns the routes, and what the manifest says of the router."""
    from moe_ray.execution.tasks import stream_task, task_size

    join()
    asked = [(domain, example) for domain, members in prepared.examples.items() for example in members]
    observer.stage(f"Routing {len(asked):,} examples")
    job = RoutingJob(
        files=read_files(wanted.directory),
        domains=tuple(config.domains),
        queries=[query_of(example, wanted.query) for _, example in asked],
        num_threads=config.runtime.cpu_threads,
    )
    retries = _retries(config, "routing", observer)
    (routed,) = stream_task(route_queries, job, task_size(config.runtime, wanted.config.gpus), retries)
    routes = Routes(
        router=wanted.fingerprint,
        domains=job.domains,
        threshold=read_record(wanted.directory).threshold,
        example_domains=tuple(domain for domain, _ in asked),
        example_ids=tuple(example.id for _, example in asked),
        probabilities=routed.probabilities,
        scores=routed.scores,
        seconds=routed.seconds,
    )
    return routes, _record(wanted, routed, prepared.run)


def covers(routes: Routes, wanted: WantedRouter, examples: Examples) -> bool:
    """Say whether `routes` are the wanted router's, for these examples and no others."""
    asked = {(domain, example.id) for domain, members in examples.items() for example in members}
    known = set(zip(routes.example_domains, routes.example_ids, strict=True))
    return routes.router == wanted.fingerprint and asked == known


def _record(wanted: WantedRouter, routed: Routed, run: RunDirectory) -> dict[str, Any]:
    """What the manifest says of the router. A router of this run is told by its path in the run directory."""
    inside = wanted.directory.is_relative_to(run.path)
    results = read_test_results(wanted.directory)
    return {
        **read_record(wanted.directory).model_dump(mode="json"),
        "path": str(wanted.directory.relative_to(run.path) if inside else wanted.directory),
        "fingerprint": wanted.fingerprint,
        "test_results": results.model_dump(mode="json") if results else None,
        "data": asdict(wanted.data.report) if wanted.data else None,
        "resources": dict(routed.resources),
    }
