"""The run, from the experiment file to the report. Everything else only serves these steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moe_ray import preparation, stored_run
from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import RunComparison, compare_runs
from moe_ray.config.load import LoadedExperiment
from moe_ray.execution.joining import Join, joining
from moe_ray.execution.observer import RunObserver
from moe_ray.planning.checkpoints import Checkpoint
from moe_ray.planning.fleet import Fleet
from moe_ray.planning.plan import Placement, Workload, place_models
from moe_ray.planning.scheduler import Abandoned
from moe_ray.planning.simulate import Simulation, simulate
from moe_ray.preparation import Prepared
from moe_ray.store.lock import exclusive
from moe_ray.store.opening import begin_session, end_session
from moe_ray.store.records import GivenUp, Manifest
from moe_ray.store.run_directory import RunDirectory, disk_errors
from moe_ray.stored_run import StoredRun

if TYPE_CHECKING:
    from moe_ray.execution.cluster import Cluster
    from moe_ray.router_stage.stage import WantedRouter
    from moe_ray.routing.results import RouterTestResults


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run would do on a fleet."""

    checkpoints: Mapping[str, Checkpoint]
    work: Workload
    placement: Placement
    fleet: Fleet
    simulation: Simulation
    router: "WantedRouter | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. It is complete when every wanted cell has its answer."""

    run: RunDirectory
    summary: Summary
    num_missing: int
    abandoned: tuple[Abandoned, ...]


def plan(experiment: LoadedExperiment, fleet: Fleet, *, only: str | None = None) -> RunPlan:
    """Say what a run would compute and where, without Ray and without a model."""
    prepared = preparation.prepare(experiment, only=only)
    placement = place_models(experiment.config, prepared.work, prepared.checkpoints, fleet)
    simulation = simulate(fleet, placement.demands, prepared.work.shards, placement.costs)
    return RunPlan(
        checkpoints=prepared.checkpoints,
        work=prepared.work,
        placement=placement,
        fleet=fleet,
        simulation=simulation,
        router=_wanted_router(experiment, prepared),
    )


def _wanted_router(experiment: LoadedExperiment, prepared: Prepared) -> "WantedRouter | None":
    if experiment.config.router is None:
        return None
    from moe_ray.router_stage.stage import wanted_router

    with preparation.located(experiment):
        return wanted_router(experiment, prepared.examples, prepared.run)


def evaluate(experiment: LoadedExperiment, observer: RunObserver, *, only: str | None = None) -> Outcome:
    """Fill the cells that are missing, grade all answers, and write the report.

    Whatever ends this call, answers that were committed stay; the same call resumes.
    """
    observer.stage("Reading data and checkpoints")
    prepared = preparation.prepare(experiment, only=only)
    run = prepared.run
    run.prepare()
    with exclusive(run), disk_errors(run.path):
        manifest = preparation.begin(experiment, prepared)
        work, abandoned = _work(experiment, prepared, manifest, observer, only)
        run.merge_answers()
        if run.graded != stored_run.grading_fingerprint(run):
            observer.stage("Grading answers")
            _grade(stored_run.load_run(run, base_dir=experiment.base_dir))
        observer.stage("Writing the report")
        summary = report(run)
    num_missing = len(work.cells) - (manifest.sessions[-1].cells_done_after or 0)
    return Outcome(run=run, summary=summary, num_missing=num_missing, abandoned=tuple(abandoned))


def _work(
    experiment: LoadedExperiment, prepared: Prepared, manifest: Manifest, observer: RunObserver, only: str | None
) -> tuple[Workload, list[Abandoned]]:
    """Ask the router, if there is one, and compute what the store lacks, as one session of the run."""
    run = prepared.run
    session = begin_session(manifest, len(prepared.work.done))
    run.write_manifest(manifest)
    status, abandoned = "failed", list[Abandoned]()
    try:
        with joining(experiment.config.runtime, observer) as join:
            prepared = _route(experiment, prepared, manifest, join, observer, only)
            if prepared.work.shards:
                abandoned = _fill_cells(experiment, prepared, manifest, join(), observer)
        status = "incomplete" if abandoned else "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        manifest.given_up = [
            GivenUp(model=entry.model, shard=entry.shard, num_cells=entry.num_cells, reason=entry.reason)
            for entry in abandoned
        ]
        end_session(session, status, len(prepared.work.done) + run.num_committed)
        run.write_manifest(manifest)
    return prepared.work, abandoned


def _route(
    experiment: LoadedExperiment,
    prepared: Prepared,
    manifest: Manifest,
    join: Join,
    observer: RunObserver,
    only: str | None,
) -> Prepared:
    """Train or load the router, ask it for every example, and add the cells that its choices need."""
    if experiment.config.router is None or only == preparation.BASELINE:
        return prepared
    from moe_ray.router_stage.stage import current_routes

    routes = current_routes(experiment, prepared, manifest, join, observer)
    return preparation.with_routes(experiment.config, prepared, routes, only)


def _fill_cells(
    experiment: LoadedExperiment, prepared: Prepared, manifest: Manifest, cluster: "Cluster", observer: RunObserver
) -> list[Abandoned]:
    """Compute what the store lacks."""
    from moe_ray.execution.cluster import fleet_of
    from moe_ray.execution.executor import Executor, Job

    fleet = fleet_of(cluster)
    placement = place_models(experiment.config, prepared.work, prepared.checkpoints, fleet)
    session = manifest.sessions[-1]
    session.hardware = preparation.hardware_record(cluster.hardware)
    prepared.run.write_manifest(manifest)
    observer.work(prepared.totals())
    observer.stage("Answering")
    job = Job(
        config=preparation.pinned(experiment.config, prepared.checkpoints),
        work=prepared.work,
        placement=placement,
        session=session.session,
        probes=preparation.probe_cells(experiment.config, prepared),
    )
    return Executor(job, cluster, fleet, prepared.run, observer).execute()


def train_router(experiment: LoadedExperiment, observer: RunObserver) -> "tuple[Path, RouterTestResults | None]":
    """Train the router that `experiment` wants, unless it is there. Returns its directory, and how good it is."""
    from moe_ray.router_stage.stage import trained_router

    return trained_router(experiment, observer)


def score(run: RunDirectory, *, allow_weak_sandbox: bool = False) -> None:
    """Grade the answers of a run directory anew. Needs its files alone: no data set, no model, no Ray.

    Raises `SandboxError` when generated programs would run without a protection that this machine lacks, unless
    `allow_weak_sandbox`; the manifest tells which protections held.
    """
    manifest = run.manifest()  # where there is no run, say so before anything is made there
    with exclusive(run), disk_errors(run.path):
        stored = stored_run.load_run(run, allow_weak_sandbox=allow_weak_sandbox)
        manifest.sandbox = preparation.sandbox_record(stored.config, stored.grader_names)
        run.write_manifest(manifest)
        run.merge_answers()
        _grade(stored)


def _grade(stored: StoredRun) -> None:
    from moe_ray.scoring.grade import grade_domain, merge_metrics
    from moe_ray.scoring.table import write_scores

    run, graders = stored.run, stored.graders()
    scores = (score for domain in stored.work(graders) for score in grade_domain(domain))
    write_scores(run.scores_path, scores, merge_metrics(graders))
    run.mark_graded(stored_run.grading_fingerprint(run))


def compare(first: RunDirectory, second: RunDirectory) -> RunComparison:
    """Hold two scored runs against each other. Writes nothing."""
    from moe_ray.report.write import scores_of_run, summary_of

    (scores_a, metrics_a), (scores_b, metrics_b) = scores_of_run(first), scores_of_run(second)
    summary_a, summary_b = summary_of(first, scores_a, metrics_a), summary_of(second, scores_b, metrics_b)
    return compare_runs(summary_a, summary_b, scores_a, scores_b)


def report(run: RunDirectory) -> Summary:
    """Write summary.json and report.html from a run directory's files."""
    from moe_ray.report.write import write_report

    return write_report(run)
