"""`moe-ray models download`: an experiment's models, from the hub to this machine."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from moe_ray.checkpoints.download import DownloadJob, make_job, require_space, run_job
from moe_ray.checkpoints.repository import Repository, look_up, repositories_of
from moe_ray.cli.terminal import LineColumn, Terminal, output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ConfigError, UserError
from moe_ray.formatting import plural, size


def download_models(experiment: LoadedExperiment, to: Path | None, only: str | None) -> None:
    """Download the hub models of `experiment` to the hub cache, or to folders in `to`.

    Raises `UserError` before any download if a model is unavailable or a disk is too small.
    """
    models = experiment.config.models
    if only is not None and only not in models:
        raise ConfigError(f"no model {only!r}", where="--only", remedy=f"choose one of {', '.join(models)}")
    console = output_console(soft_wrap=True)
    for name, model in models.items():
        if only in (None, name):
            _show_skipped(console, name, model)
    try:
        jobs = [_job(repository, to) for repository in repositories_of(experiment.config, only)]
        require_space(jobs)
        run_jobs(console, jobs, to)
    except UserError as error:
        if error.where and error.where.startswith("models."):
            error.where = experiment.where(error.where)
        raise


def _show_skipped(console: Terminal, name: str, model: ModelConfig) -> None:
    if not settings_class(model.engine).has_files:
        console.print(f"{name}: engine {model.engine}, nothing to fetch")
    elif is_local_path(model.path):
        there = Path(model.path).expanduser().exists()
        console.print(f"{name}: {model.path} is {'local' if there else 'local, but does not exist'}")


def _job(repository: Repository, to: Path | None) -> DownloadJob:
    model, _, role = repository.key.removeprefix("models.").rpartition(".")
    name = model if role == "path" else f"{model}-{role}"
    return make_job(look_up(repository), None if to is None else to / name)


def run_jobs(console: Terminal, jobs: Sequence[DownloadJob], to: Path | None = None) -> None:
    """Download with a progress bar, and print a line for each repository. `to` is the folder of plain folders."""
    columns = (LineColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    try:
        with Progress(
            *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True
        ) as progress:
            for job in jobs:
                total = sum(file.num_bytes for file in job.snapshot.files)
                task = progress.add_task(
                    job.snapshot.repository.repo, total=total, completed=total - job.num_bytes_missing
                )
                fetched = job.num_bytes_missing
                folder = run_job(job, partial(progress.advance, task))
                _show(console, job, folder, fetched, to)
    except KeyboardInterrupt:
        console.print("\nInterrupted. Downloaded files are kept; the same command continues.")
        raise


def _show(console: Terminal, job: DownloadJob, folder: Path, fetched: int, to: Path | None) -> None:
    repository, files = job.snapshot.repository, job.snapshot.files
    total = size(sum(file.num_bytes for file in files))
    news = f"{size(fetched)} fetched" if fetched else "already downloaded"
    console.print(f"{repository.key}: {repository.repo}, {plural(len(files), 'file')}, {total}, {news}")
    console.print(f"  in {folder}")
    if to is not None:
        console.print(f"  {repository.role}: {folder.absolute()}  # {repository.repo} at {job.snapshot.commit}")
    elif repository.role == "path":
        console.print(f"  revision: {job.snapshot.commit}")
