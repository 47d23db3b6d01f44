"""What would stop a run soon after its start, found out beforehand: for `plan`, which starts and writes nothing."""

import os
import shutil
from pathlib import Path

from moe_ray import preparation
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import Problems, RunDirectoryError
from moe_ray.planning.plan import Workload
from moe_ray.preparation import Prepared, located
from moe_ray.store.opening import refuse_drift
from moe_ray.store.run_directory import RunDirectory

# An answer's row beside its text: keys, ids, times, counts.
ROW_BYTES = 256
# Bytes of a new token in a compressed answer file; small, so that only a disk that is truly too small is refused.
TOKEN_BYTES = 1


def gather_problems(experiment: LoadedExperiment, prepared: Prepared, problems: Problems, *, is_here: bool) -> None:
    """Add to `problems` what `evaluate` would refuse: graders, a changed run, and if `is_here` sandbox and disk.

    `is_here` says that the run is planned for this machine, whose sandbox and disk then count.
    """
    config, run = experiment.config, prepared.run
    graders = {name: domain.graders for name, domain in prepared.domains.items()}
    for name, wanted in graders.items():
        with problems.gathered(), located(experiment):
            preparation.make_all_graders(config, {name: wanted}, experiment.base_dir)
    with problems.gathered():
        if run.exists:
            refuse_drift(run, run.manifest().identity, preparation.run_identity(config, prepared.checkpoints))
    if is_here:
        with problems.gathered():
            preparation.sandbox_record(config, graders)
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
