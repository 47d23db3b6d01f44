"""The plan of a run: what it would compute and where, and all that it would be refused for, without Ray or a model."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moe_ray.checkpoints.identity import Checkpoint
from moe_ray.config.load import LoadedExperiment
from moe_ray.domains.loading import is_assumed
from moe_ray.errors import OfflineError, Problems, RunDirectoryError
from moe_ray.planning.fleet import Fleet
from moe_ray.planning.plan import Placement, Workload, place_models, uses_of
from moe_ray.planning.simulate import Simulation, Speed, Stretch, measured_speeds, simulate, stated_speeds, with_sizes
from moe_ray.runs.grading import make_all_graders, sandbox_record
from moe_ray.runs.inputs import Inputs, located
from moe_ray.runs.manifest import run_identity
from moe_ray.runs.work import Prepared, missing_keys, prepare, with_done
from moe_ray.store.opening import refuse_drift
from moe_ray.store.reuse import reusable_keys
from moe_ray.store.run_directory import RunDirectory
from moe_ray.texts.labelled import RouterTexts

if TYPE_CHECKING:
    from moe_ray.runs.wanted_router import WantedRouter

# An answer's row beside its text: keys, ids, times, counts.
ROW_BYTES = 256
# Bytes of a new token in a compressed answer file; small, so that only a disk that is truly too small is refused.
TOKEN_BYTES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRouter:
    """The router of a planned run. `texts` are those that it would be trained on, None where it is trained already.

    They are the most that there may be: near duplicates are searched, and left out, when it is trained.
    """

    wanted: "WantedRouter"
    texts: RouterTexts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run would do on a fleet.

    `assumed` are the domains whose data could not be reached, with their size; `notes` are those of the domains' data
    and prompts. `changes` says how the data changed since the run's last session. `reused` counts the answers that
    other run directories would give.
    """

    checkpoints: Mapping[str, Checkpoint]
    work: Workload
    placement: Placement
    fleet: Fleet
    simulation: Simulation
    router: PlannedRouter | None
    speeds: Mapping[str, Speed]
    assumed: Mapping[str, int]
    notes: Mapping[str, tuple[str, ...]]
    changes: tuple[str, ...] = ()
    reused: Mapping[Path, int] = field(default_factory=dict)


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
    prepared = prepare(experiment, only=only, assume_unreachable=not is_here)
    reused = dict[Path, int]()
    for source in reuse:
        keys = reusable_keys(source, missing_keys(prepared))
        prepared, reused[source.path] = with_done(prepared, keys), len(keys)
    checkpoints = with_sizes(prepared.checkpoints, sizes)
    problems = Problems()
    gather_problems(prepared, problems, is_here=is_here)
    router = None
    with problems.gathered(), located(experiment):
        router = _planned_router(prepared.inputs, is_here=is_here)
    with problems.gathered(), located(experiment):
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


def _planned_router(inputs: Inputs, *, is_here: bool) -> PlannedRouter | None:
    if inputs.config.router is None:
        return None
    from moe_ray.runs.wanted_router import read_texts, wanted_router

    try:
        wanted = wanted_router(inputs)
        if wanted.is_there:
            return PlannedRouter(wanted=wanted, texts=None)
        data = read_texts(inputs.experiment, inputs.examples, read=inputs.data_sets.read, near_duplicates=False)
    except OfflineError:
        if is_here:
            raise
        return None
    return PlannedRouter(wanted=wanted, texts=data.texts)


def _stretches(run: RunDirectory) -> Iterator[Stretch]:
    """What the replicas of earlier sessions did; nothing where there is no run yet."""
    for record in run.telemetry() if run.exists else ():
        num_tokens = record.num_completion_tokens
        yield Stretch(model=record.model, num_tokens=num_tokens, busy_s=record.busy_s, load_s=record.load_s)


def gather_problems(prepared: Prepared, problems: Problems, *, is_here: bool) -> None:
    """Add to `problems` what `evaluate` would refuse: graders, a changed run, and if `is_here` sandbox and disk.

    `is_here` says that the run is planned for this machine, whose sandbox and disk then count.
    """
    inputs, run = prepared.inputs, prepared.run
    for name, wanted in inputs.grader_names.items():
        with problems.gathered(), located(inputs.experiment):
            make_all_graders(inputs.config, {name: wanted}, inputs.base_dir)
    with problems.gathered():
        if inputs.earlier is not None:
            refuse_drift(run, inputs.earlier.identity, run_identity(inputs.config, inputs.checkpoints))
    if is_here:
        with problems.gathered():
            sandbox_record(inputs.config, inputs.grader_names)
        with problems.gathered():
            require_room(run, prepared.work)


def require_room(run: RunDirectory, work: Workload) -> None:
    """Raise `RunDirectoryError` when the answers of `work` cannot be written, or have no room on their disk."""
    folder = _nearest_existing(run.path)
    if not folder.is_dir():
        raise RunDirectoryError(
            f"cannot write here: {folder} is a file", where=str(run.path), remedy="choose another --results-dir"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunDirectoryError(
            f"cannot write here: {folder} is read-only for this user",
            where=str(run.path),
            remedy="choose another place with --results-dir, or change the permissions",
        )
    needed = sum(ROW_BYTES + TOKEN_BYTES * cell.max_new_tokens for shard in work.shards for cell in shard.cells)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunDirectoryError(
            f"{needed:,} bytes of answers are to come, and its disk has {free:,} free",
            where=str(run.path),
            remedy="free disk space, or choose another place with --results-dir",
        )


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
