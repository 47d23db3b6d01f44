"""The run, from the experiment file to the report: load, plan, route, fill, grade, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import RunComparison, SystemComparison, compare_runs, compare_within
from moe_ray.config.dump import dump_experiment
from moe_ray.config.load import LoadedExperiment
from moe_ray.execution.observer import Join, RunObserver, joining
from moe_ray.planning.plan import place_models, uses_of
from moe_ray.planning.scheduler import Abandoned
from moe_ray.runs.grading import prepared_run, sandbox_record
from moe_ray.runs.manifest import RunRecord, begin, checked_graders
from moe_ray.runs.plan import RunPlan, plan
from moe_ray.runs.sharing import Progress, claims_of
from moe_ray.runs.stored import Run, load_run
from moe_ray.runs.work import BASELINE, Prepared, missing_keys, pinned, prepare, probe_cells, with_done, with_routes
from moe_ray.store.lock import Hold, exclusive, hold
from moe_ray.store.reuse import reuse_answers
from moe_ray.store.run_directory import RunDirectory, disk_errors

if TYPE_CHECKING:
    from moe_ray.execution.cluster import Cluster
    from moe_ray.routing.files import RouterTestResults

__all__ = [
    "Outcome", "RunPlan", "compare", "compare_systems", "evaluate", "plan", "report", "score", "train_router"
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. It is complete when every wanted cell has its answer."""

    run: RunDirectory
    summary: Summary
    num_missing: int
    abandoned: tuple[Abandoned, ...]


def evaluate(
    experiment: LoadedExperiment,
    observer: RunObserver,
    *,
    only: str | None = None,
    reuse: Sequence[RunDirectory] = (),
    shared: bool = False,
) -> Outcome:
    """Fill the cells that are missing, grade all answers, and write the report.

    Answers of the run directories in `reuse` to cells that are wanted here are copied first.
    Whatever ends this call, answers that were committed stay; the same call resumes.
    With `shared`, other processes may do the same at the same time: each computes what no other live one does, all
    return when everything is done, and one of them writes the report.
    """
    observer.stage("Reading data and checkpoints")
    prepared = prepare(experiment, only=only)
    for change in prepared.changes:
        observer.stage(change)
    run = prepared.run
    run.prepare()
    with hold(run, observer.stage, is_shared=shared) as held, disk_errors(run.path):
        prepared, record, abandoned = _answer(prepared, held, reuse, observer)
        with held.alone("report"):
            summary = _conclude(prepared, record, observer)
    num_missing = prepared.work.num_cells - (record.own_session.cells_done_after or 0)
    return Outcome(run=run, summary=summary, num_missing=num_missing, abandoned=tuple(abandoned))


def _answer(
    prepared: Prepared, held: Hold, reuse: Sequence[RunDirectory], observer: RunObserver
) -> tuple[Prepared, RunRecord, list[Abandoned]]:
    """Ask the router, if there is one, and compute what the store lacks, as one session of the run."""
    progress, abandoned = Progress(prepared.run, is_shared=held.leases is not None), list[Abandoned]()
    graders = checked_graders(prepared)
    with held.alone("set-up"):
        record = begin(prepared, graders, is_shared=progress.is_shared)
        prepared = _reuse(with_done(prepared, progress.news()), reuse, observer)
    with (
        record.working(lambda: progress.num_done(prepared), abandoned),
        joining(prepared.inputs.config.runtime, observer) as join,
    ):
        with held.alone("set-up"):
            record.refresh()
            prepared = _reuse(_route(prepared, record, join, observer), reuse, observer)
        prepared = with_done(prepared, progress.news())
        if prepared.work.shards:
            abandoned += _fill_cells(prepared, record, held, progress, join(), observer)
    return prepared, record, abandoned


def _reuse(prepared: Prepared, sources: Sequence[RunDirectory], observer: RunObserver) -> Prepared:
    """Copy the answers of other run directories to the cells that are missing here."""
    for source in sources:
        keys = reuse_answers(prepared.run, source, missing_keys(prepared))
        if keys:
            observer.stage(f"Reusing {len(keys)} answers of {source.path}")
        prepared = with_done(prepared, keys)
    return prepared


def _route(prepared: Prepared, record: RunRecord, join: Join, observer: RunObserver) -> Prepared:
    """Train or load the router, ask it for every example, and add the cells that its choices need."""
    if prepared.inputs.config.router is None or prepared.only == BASELINE:
        prepared.inputs.data_sets.forget()
        return prepared
    from moe_ray.runs.router import current_routes

    return with_routes(prepared, current_routes(prepared.inputs, record, join, observer))


def _fill_cells(
    prepared: Prepared,
    record: RunRecord,
    held: Hold,
    progress: Progress,
    cluster: "Cluster",
    observer: RunObserver,
) -> list[Abandoned]:
    """Compute what the store lacks: all of it, or what no other process of a shared run does."""
    from moe_ray.execution.cluster import fleet_of
    from moe_ray.execution.executor import Executor, RunJob

    config, checkpoints, fleet = prepared.inputs.config, prepared.checkpoints, fleet_of(cluster)
    placement = place_models(config.models, uses_of(config, prepared.work), checkpoints, fleet, config.runtime)
    record.on_hardware(cluster.hardware)
    observer.work(prepared.totals())
    observer.stage("Answering")
    job = RunJob(
        config=pinned(config, checkpoints),
        work=prepared.work,
        placement=placement,
        session=record.session,
        probes=probe_cells(prepared),
        identities={name: identity.key for name, identity in prepared.inputs.identities.items()},
    )
    claims = None if held.leases is None else claims_of(prepared, held.leases, progress.answers)
    abandoned = Executor(job, cluster, fleet, prepared.run, observer, claims).execute()
    return progress.still_missing(prepared, abandoned)


def _conclude(prepared: Prepared, record: RunRecord, observer: RunObserver) -> Summary:
    """Grade all answers and write the report, unless another process of a shared run has done both of the same."""
    run = prepared.run
    run.merge_answers()
    graded = prepared_run(prepared, record.manifest, record.graders)
    made_from = graded.fingerprint()
    if record.is_shared and run.graded == run.reported == made_from:
        return Run(run.path).summary
    record.gather()
    if run.graded != made_from:
        observer.stage("Grading answers")
        graded.grade(made_from)
    observer.stage("Writing the report")
    summary = report(run)
    if record.is_shared:
        run.mark_reported(made_from)
    return summary


def train_router(experiment: LoadedExperiment, observer: RunObserver) -> "tuple[Path, RouterTestResults | None]":
    """Train the router that `experiment` wants, unless it is there. Returns its directory, and how good it is."""
    from moe_ray.runs.router import trained_router

    return trained_router(experiment, observer)


def score(
    run: RunDirectory,
    *,
    experiment: LoadedExperiment | None = None,
    trust: bool = False,
    allow_weak_sandbox: bool = False,
    on_notice: Callable[[str], object] = lambda _: None,
) -> None:
    """Grade the answers of a run directory again. Needs its files alone: no data set, no model, no Ray.

    With an `experiment`, its graders and its sandbox's limits replace those that the run directory names; see
    `load_run` for what a run directory may ask for without it.

    Raises `SandboxError` when generated programs would run without a protection that this machine lacks, unless
    `allow_weak_sandbox`; the manifest tells which protections held. `on_notice` gets messages for the user.
    """
    run.manifest()  # raises if there is no run, before anything is written
    with exclusive(run, on_notice), disk_errors(run.path):
        stored = load_run(run, experiment=experiment, trust=trust, allow_weak_sandbox=allow_weak_sandbox)
        record = RunRecord(run, stored.manifest, stored.graders)
        sandbox = sandbox_record(stored.config, stored.grader_names)
        if experiment is not None:
            run.write_config(dump_experiment(stored.config))
        record.on_graders(stored.grader_names, sandbox)
        run.merge_answers()
        stored.grade(stored.fingerprint())


def compare(first: RunDirectory, second: RunDirectory) -> RunComparison:
    """Compare two scored runs. Writes nothing."""
    from moe_ray.report.write import scored_run

    return compare_runs(scored_run(first), scored_run(second))


def compare_systems(run: RunDirectory, system_a: str, system_b: str) -> SystemComparison:
    """Compare two systems or models of one scored run. Writes nothing."""
    from moe_ray.report.write import scored_run

    return compare_within(scored_run(run), system_a, system_b)


def report(run: RunDirectory) -> Summary:
    """Write summary.json and report.html from a run directory's files."""
    from moe_ray.report.write import write_report

    with disk_errors(run.path):
        return write_report(run)
