"""Ray tasks of the router: train it, or route with it. Routers are sent as files, because nodes share no disk."""

import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.config.schema import RouterConfig
from moe_ray.device import choose_device, peak_torch_bytes
from moe_ray.execution.gpus import peak_resident_bytes
from moe_ray.progress import TrainingProgress
from moe_ray.routing.router import Router
from moe_ray.routing.training import fit_router
from moe_ray.texts.labelled import RouterTexts

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
