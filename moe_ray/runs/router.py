"""The router in a run: training it where it is not there yet, and asking it for the run's examples."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import ExperimentConfig
from moe_ray.domains.example import Example, query_of
from moe_ray.execution.observer import Join, RunObserver, joining
from moe_ray.files import read_json, write_directory_atomically
from moe_ray.progress import TrainingProgress
from moe_ray.routing.files import DATA_FILE, read_record, read_test_results, reading
from moe_ray.routing.results import RouterTestResults
from moe_ray.runs.inputs import Inputs, located, read_inputs
from moe_ray.runs.manifest import RunRecord
from moe_ray.runs.router_name import WantedRouter, named_by_texts, router_directory, wanted_router
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
from moe_ray.runs.router_texts import RouterData, read_texts, required_router
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from moe_ray.execution.tasks import Retries

Examples = Mapping[str, Sequence[Example]]


def current_routes(inputs: Inputs, record: RunRecord, join: Join, observer: RunObserver) -> Routes:
    """Return what the wanted router says of the run's examples. What is not there yet is trained, asked and kept.

    The data sets' records are freed.
    """
    run, known = inputs.run, record.manifest.router
    with located(inputs.experiment):
        wanted, data = _settled(inputs)
        inputs.data_sets.forget()
        routes = run.routes()
        # A run that was stopped between the two writes below has routes that its manifest does not know.
        is_known = known is not None and known.get("fingerprint") == wanted.fingerprint
        if routes is None or known is None or not is_known or not covers(routes, wanted, inputs.examples):
            obtain_router(wanted, data, inputs.config, join, observer)
            routes, about = route_examples(wanted, inputs, join, observer)
            run.write_routes(routes)
            record.on_router({**about, "data": _data_report(wanted, data, known)})
        elif wanted.name is not None and known.get("name") != wanted.name:
            record.on_router({**known, "name": wanted.name})
    return routes


def trained_router(experiment: LoadedExperiment, observer: RunObserver) -> tuple[Path, RouterTestResults | None]:
    """Train the wanted router, unless it is there. Needs the run's examples, to leave them out, but no model."""
    required_router(experiment)
    observer.stage("Reading data")
    inputs = read_inputs(experiment, with_models=False)
    with located(experiment):
        wanted, data = _settled(inputs)
        inputs.data_sets.forget()
        with joining(inputs.config.runtime, observer) as join:
            obtain_router(wanted, data, inputs.config, join, observer)
    return wanted.directory, read_test_results(wanted.directory)


def _settled(inputs: Inputs) -> tuple[WantedRouter, RouterData | None]:
    """The wanted router, and the texts that it learns from where it is not there, or not certain to be the one."""
    wanted = wanted_router(inputs)
    if wanted.name is None or (wanted.is_there and wanted.is_certain):
        return wanted, None
    data = read_texts(inputs.experiment, inputs.examples, read=inputs.data_sets.read)
    old = named_by_texts(wanted, inputs.run, data.texts)
    if old.is_there:
        return old, data
    directory = router_directory(inputs.run, wanted.config, wanted.name)
    return replace(wanted, directory=directory, fingerprint=wanted.name, is_certain=True), data


def obtain_router(
    wanted: WantedRouter, data: RouterData | None, config: ExperimentConfig, join: Join, observer: RunObserver
) -> None:
    """Train the router on `data` as a Ray task, unless it is there: then nothing happens."""
    if wanted.is_there or data is None:
        return
    from moe_ray.execution.tasks import stream_task, task_size

    join()
    texts = data.texts
    observer.stage(f"Training the router on {len(texts.train):,} texts")
    job = RouterTrainingJob(config=wanted.config, texts=texts, num_threads=config.runtime.cpu_threads)
    retries = _retries(config, "the router's training", observer)
    for event in stream_task(train_router, job, task_size(config.runtime, wanted.config.gpus), retries):
        if isinstance(event, Trained):
            _install(event, data, wanted.directory)
        else:
            observer.training(event.step, event.num_steps, _detail(event))


def _retries(config: ExperimentConfig, name: str, observer: RunObserver) -> "Retries":
    from moe_ray.execution.tasks import Retries

    return Retries(max_attempts=config.runtime.max_attempts, name=lambda _job: name, on_retry=observer.notice)


def _install(trained: Trained, data: RouterData, directory: Path) -> None:
    report = json.dumps(data.report.as_json(), indent=2) + "\n"
    files = {**trained.files, DATA_FILE: report.encode()}
    write_directory_atomically(directory, lambda folder: write_files(files, folder))


def _detail(event: TrainingProgress) -> str:
    parts = [f"epoch {event.epoch:.1f}"]
    parts += [f"loss {event.loss:.3f}"] if event.loss is not None else []
    parts += [f"macro-F1 {event.macro_f1:.3f}"] if event.macro_f1 is not None else []
    return ", ".join(parts)


def route_examples(
    wanted: WantedRouter, inputs: Inputs, join: Join, observer: RunObserver
) -> tuple[Routes, dict[str, Any]]:
    """Ask the router for every example, as a Ray task. Returns the routes, and what the manifest says of the router."""
    from moe_ray.execution.tasks import stream_task, task_size

    join()
    config = inputs.config
    asked = [(domain, example) for domain, members in inputs.examples.items() for example in members]
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
    return routes, _record(wanted, routed, inputs.run)


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
        "name": wanted.name,
        "test_results": results.model_dump(mode="json") if results else None,
        "resources": dict(routed.resources),
    }


def _data_report(wanted: WantedRouter, data: RouterData | None, known: Mapping[str, Any] | None) -> Any:
    """What became of the records that the router learned from: from its texts, its directory or the last session."""
    if wanted.name is None:
        return None
    if data is not None:
        return data.report.as_json()
    path = wanted.directory / DATA_FILE
    if not path.is_file():
        return known.get("data") if known is not None and known.get("fingerprint") == wanted.fingerprint else None
    with reading(path):
        return read_json(path)
