"""The router in a run, as Ray tasks: train it unless it is there, and route the run's examples."""

import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import ExperimentConfig, RouterConfig
from moe_ray.device import choose_device, peak_torch_bytes
from moe_ray.domains.example import Example, query_of
from moe_ray.execution.gpus import peak_resident_bytes
from moe_ray.execution.observer import Join, RunObserver, joining
from moe_ray.files import read_json, write_directory_atomically
from moe_ray.progress import TrainingProgress
from moe_ray.routing.files import DATA_FILE, RouterTestResults, read_record, read_test_results, reading
from moe_ray.routing.router import Router
from moe_ray.routing.training import fit_router
from moe_ray.runs.inputs import Inputs, located, read_inputs
from moe_ray.runs.manifest import RunRecord
from moe_ray.runs.wanted_router import (
    RouterData,
    WantedRouter,
    named_by_texts,
    read_texts,
    required_router,
    router_directory,
    wanted_router,
)
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory
from moe_ray.texts.labelled import RouterTexts

if TYPE_CHECKING:
    from moe_ray.execution.tasks import Retries

Files = Mapping[str, bytes]

# Queries that are routed one by one at the end: what one user alone would wait.
NUM_PROBES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTrainingJob:
    """A router to train. `num_threads` are torch's, on a CPU."""

    config: RouterConfig
    texts: RouterTexts
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained router: its directory's files, by name."""

    files: Files


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingJob:
    """A router's files, its domains in the order of the columns that are wanted, and the queries that it is asked."""

    files: Files
    domains: tuple[str, ...]
    queries: Sequence[str]
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """What the router said of n queries, and what that took.

    `probabilities` [n, num_domains]; `scores` [n]; `seconds` [n], each its share of its batch. `resources` are the
    worker's: its device, the median time of a query alone, its peak memory.
    """

    probabilities: FloatArray
    scores: FloatArray
    seconds: FloatArray
    resources: Mapping[str, Any]


def train_router(job: RouterTrainingJob) -> Iterator[TrainingProgress | Trained]:
    """Train, and yield how far it is; last of all the router. Errors of the training are raised from here."""
    events: queue.SimpleQueue[TrainingProgress | Trained | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            events.put(Trained(files=_train(job, events)))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that yields, and raised there
            events.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        yield event
        if isinstance(event, Trained):
            return


def _train(job: RouterTrainingJob, events: "queue.SimpleQueue[Any]") -> Files:
    device = choose_device(job.num_threads)
    router, _ = fit_router(job.config, job.texts, device=device, report=events.put)
    with tempfile.TemporaryDirectory(prefix="moe-ray-router-") as folder:
        directory = Path(folder) / "router"
        router.save(directory)
        return read_files(directory)


def route_queries(job: RoutingJob) -> Iterator[Routed]:
    """Ask a router, and yield once what it said."""
    device = choose_device(job.num_threads)
    with tempfile.TemporaryDirectory(prefix="moe-ray-router-") as folder:
        write_files(job.files, Path(folder))
        router = Router.load(Path(folder), device=device)
    judged = router.judge(job.queries)
    order = [router.domains.index(domain) for domain in job.domains]
    yield Routed(
        probabilities=judged.probabilities[:, order],
        scores=judged.scores,
        seconds=judged.seconds,
        resources={
            "device": device,
            "single_query_s": float(np.median([_alone_s(router, query) for query in job.queries[:NUM_PROBES]])),
            "peak_resident_bytes": peak_resident_bytes(os.getpid()),
            "peak_torch_bytes": peak_torch_bytes(device),
        },
    )


def _alone_s(router: Router, query: str) -> float:
    started = time.perf_counter()
    router.judge([query])
    return time.perf_counter() - started


def read_files(directory: Path) -> Files:
    """The files below a router's directory, by their path in it."""
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def write_files(files: Files, directory: Path) -> None:
    """Write what `read_files` read into an existing directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


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
    """The router's record in the manifest. A router of this run has its path relative to the run directory."""
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
    """The report on the router's training records, from its texts, its directory or the last session."""
    if wanted.name is None:
        return None
    if data is not None:
        return data.report.as_json()
    path = wanted.directory / DATA_FILE
    if not path.is_file():
        return known.get("data") if known is not None and known.get("fingerprint") == wanted.fingerprint else None
    with reading(path):
        return read_json(path)
