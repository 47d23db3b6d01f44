"""The pipeline of a run, from the experiment file to the report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moe_ray.checkpoints.identity import Checkpoint
from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import RunComparison, SystemComparison, compare_runs, compare_within
from moe_ray.config.dump import dump_experiment
from moe_ray.config.load import LoadedExperiment
from moe_ray.domains.loading import is_assumed
from moe_ray.errors import OfflineError, Problems
from moe_ray.execution.observer import Join, RunObserver, joining
from moe_ray.planning.fleet import Fleet
from moe_ray.planning.plan import Placement, Workload, place_models, uses_of
from moe_ray.planning.scheduler import Abandoned
from moe_ray.planning.simulate import Simulation, Speed, Stretch, measured_speeds, simulate, stated_speeds, with_sizes
from moe_ray.runs import preparation
from moe_ray.runs import preview as preflight
from moe_ray.runs import stored as stored_run
from moe_ray.runs.preparation import Prepared
from moe_ray.runs.stored import StoredRun
from moe_ray.store.lock import exclusive
from moe_ray.store.opening import begin_session, end_session
from moe_ray.store.records import GivenUp, Manifest
from moe_ray.store.reuse import reusable_keys, reuse_answers
from moe_ray.store.run_directory import RunDirectory, disk_errors

if TYPE_CHECKING:
    from moe_ray.execution.cluster import Cluster
    from moe_ray.routing.results import RouterTestResults
    from moe_ray.runs.router import WantedRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run would do on a fleet.

    `assumed` are the domains whose data could not be reached, with their size; `notes` are those of the domains' data
    and prompts. `changes` says what became of the data since the run's last session. `reused` counts the answers that
    other run directories would give.
    """

    checkpoints: Mapping[str, Checkpoint]
    work: Workload
    placement: Placement
    fleet: Fleet
    simulation: Simulation
    router: "WantedRouter | None"
    speeds: Mapping[str, Speed]
    assumed: Mapping[str, int]
    notes: Mapping[str, tuple[str, ...]]
    changes: tuple[str, ...] = ()
    reused: Mapping[Path, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. It is complete when every wanted cell has its answer."""

    run: RunDirectory
    summary: Summary
    num_missing: int
    abandoned: tuple[Abandoned, ...]


def plan(
    experiment: LoadedExperiment,
    fleet: Fleet,
    *,
    only: str | None = None,
    is_here: bool = True,
    sizes: Sequence[str] = (),
    speeds: Sequence[str] = (),
    reuse: Sequence[RunDirectory] = (),
) -> RunPlan:
    """Say what a run would compute and where, without Ray and without a model, and refuse what `evaluate` would.

    `sizes` and `speeds` are read as `--size` and `--speed` are. Without `is_here` the plan is for another place: what
    cannot be reached from here is assumed. Raises one `UserError` of all that is wrong.
    """
    prepared = preparation.prepare(experiment, only=only, assume_unreachable=not is_here)
    reused = dict[Path, int]()
    for source in reuse:
        keys = reusable_keys(source, preparation.wanted_keys(prepared))
        prepared, reused[source.path] = preparation.with_done(experiment.config, prepared, keys), len(keys)
    checkpoints = with_sizes(prepared.checkpoints, sizes)
    problems = Problems()
    preflight.gather_problems(experiment, prepared, problems, is_here=is_here)
    router = None
    with problems.gathered(), preparation.located(experiment):
        router = _wanted_router(experiment, prepared, is_here=is_here)
    with problems.gathered(), preparation.located(experiment):
        config, uses = experiment.config, uses_of(experiment.config, prepared.work)
        placement = place_models(config.models, uses, checkpoints, fleet, config.runtime)
    problems.raise_if_any()
    known = measured_speeds(_stretches(prepared.run)) | stated_speeds(speeds, list(experiment.config.models))
    return RunPlan(
        checkpoints=checkpoints,
        work=prepared.work,
        placement=placement,
        fleet=fleet,
        simulation=simulate(fleet, placement.demands, prepared.work.shards, placement.costs, known),
        router=router,
        speeds=known,
        assumed={name: len(one.examples) for name, one in prepared.domains.items() if is_assumed(one)},
        notes={name: domain.notes for name, domain in prepared.domains.items()},
        changes=prepared.changes,
        reused=reused,
    )


def _wanted_router(experiment: LoadedExperiment, prepared: Prepared, *, is_here: bool) -> "WantedRouter | None":
    if experiment.config.router is None:
        return None
    from moe_ray.runs.router import wanted_router

    try:
        return wanted_router(experiment, prepared.examples, prepared.run)
    except OfflineError:
        if is_here:
            raise
        return None


def _stretches(run: RunDirectory) -> Iterator[Stretch]:
    """What the replicas of earlier sessions did; nothing where there is no run yet."""
    for record in run.telemetry() if run.exists else ():
        num_tokens = record.num_completion_tokens
        yield Stretch(model=record.model, num_tokens=num_tokens, busy_s=record.busy_s, load_s=record.load_s)


def evaluate(
    experiment: LoadedExperiment,
    observer: RunObserver,
    *,
    only: str | None = None,
    reuse: Sequence[RunDirectory] = (),
) -> Outcome:
    """Fill the cells that are missing, grade all answers, and write the report.

    Answers of the run directories in `reuse` to cells that are wanted here are copied first.
    Whatever ends this call, answers that were committed stay; the same call resumes.
    """
    observer.stage("Reading data and checkpoints")
    prepared = preparation.prepare(experiment, only=only)
    for change in prepared.changes:
        observer.stage(change)
    run = prepared.run
    run.prepare()
    with exclusive(run, observer.stage), disk_errors(run.path):
        manifest = preparation.begin(experiment, prepared)
        work, abandoned = _work(experiment, prepared, manifest, observer, only, reuse)
        run.merge_answers()
        if run.graded != stored_run.grading_fingerprint(run):
            observer.stage("Grading answers")
            _grade(stored_run.load_run(run, experiment=experiment))
        observer.stage("Writing the report")
        summary = report(run)
    num_missing = work.num_cells - (manifest.sessions[-1].cells_done_after or 0)
    return Outcome(run=run, summary=summary, num_missing=num_missing, abandoned=tuple(abandoned))


def _work(
    experiment: LoadedExperiment,
    prepared: Prepared,
    manifest: Manifest,
    observer: RunObserver,
    only: str | None,
    reuse: Sequence[RunDirectory],
) -> tuple[Workload, list[Abandoned]]:
    """Ask the router, if there is one, and compute what the store lacks, as one session of the run."""
    run = prepared.run
    prepared = _reuse(experiment, prepared, reuse, observer)
    session = begin_session(manifest, len(prepared.work.done))
    run.write_manifest(manifest)
    status, abandoned = "failed", list[Abandoned]()
    try:
        with joining(experiment.config.runtime, observer) as join:
            prepared = _route(experiment, prepared, manifest, join, observer, only)
            prepared = _reuse(experiment, prepared, reuse, observer)
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


def _reuse(
    experiment: LoadedExperiment, prepared: Prepared, sources: Sequence[RunDirectory], observer: RunObserver
) -> Prepared:
    """Copy the answers of other run directories to the cells that are missing here."""
    for source in sources:
        keys = reuse_answers(prepared.run, source, preparation.wanted_keys(prepared))
        if keys:
            observer.stage(f"Reusing {len(keys)} answers of {source.path}")
        prepared = preparation.with_done(experiment.config, prepared, keys)
    return prepared


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
    from moe_ray.runs.router import current_routes

    routes = current_routes(experiment, prepared, manifest, join, observer)
    return preparation.with_routes(experiment.config, prepared, routes, only)


def _fill_cells(
    experiment: LoadedExperiment, prepared: Prepared, manifest: Manifest, cluster: "Cluster", observer: RunObserver
) -> list[Abandoned]:
    """Compute what the store lacks."""
    from moe_ray.execution.cluster import fleet_of
    from moe_ray.execution.executor import Executor, RunJob

    fleet = fleet_of(cluster)
    config, uses = experiment.config, uses_of(experiment.config, prepared.work)
    placement = place_models(config.models, uses, prepared.checkpoints, fleet, config.runtime)
    session = manifest.sessions[-1]
    session.hardware = preparation.hardware_record(cluster.hardware)
    prepared.run.write_manifest(manifest)
    observer.work(prepared.totals())
    observer.stage("Answering")
    job = RunJob(
        config=preparation.pinned(experiment.config, prepared.checkpoints),
        work=prepared.work,
        placement=placement,
        session=session.session,
        probes=preparation.probe_cells(experiment.config, prepared),
        identities={name: checkpoint.identity.key for name, checkpoint in prepared.checkpoints.items()},
    )
    return Executor(job, cluster, fleet, prepared.run, observer).execute()


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
    tell: Callable[[str], object] = lambda _: None,
) -> None:
    """Grade the answers of a run directory again. Needs its files alone: no data set, no model, no Ray.

    With an `experiment`, its graders and its sandbox's limits replace those that the run directory names; see
    `load_run` for what a run directory may ask for without it.

    Raises `SandboxError` when generated programs would run without a protection that this machine lacks, unless
    `allow_weak_sandbox`; the manifest tells which protections held. `tell` is called with what the user should know.
    """
    run.manifest()  # where there is no run, say so before anything is made there
    with exclusive(run, tell), disk_errors(run.path):
        stored = stored_run.load_run(run, experiment=experiment, trust=trust, allow_weak_sandbox=allow_weak_sandbox)
        manifest = stored.manifest
        manifest.sandbox = preparation.sandbox_record(stored.config, stored.grader_names)
        for domain, names in stored.grader_names.items():
            manifest.domains[domain]["graders"] = list(names)
        if experiment is not None:
            run.write_config(dump_experiment(stored.config))
        run.write_manifest(manifest)
        run.merge_answers()
        _grade(stored)


def _grade(stored: StoredRun) -> None:
    from moe_ray.scoring.grade import grade_domain, merge_metrics
    from moe_ray.scoring.score import write_scores

    run, graders = stored.run, stored.graders()
    scores = (score for domain in stored.work(graders) for score in grade_domain(domain))
    write_scores(run.scores_path, scores, merge_metrics(graders))
    run.mark_graded(stored_run.grading_fingerprint(run))


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
