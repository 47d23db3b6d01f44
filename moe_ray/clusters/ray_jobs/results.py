"""Where a job's results are, and how they come home: from a folder that both machines see, or from a mirror.

A place is the run directory on the cluster: an absolute folder, or an address of fsspec such as s3://BUCKET/runs/NAME.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from moe_ray.errors import UserError
from moe_ray.files import StoredRecord, read_bytes, write_atomically, write_text_atomically
from moe_ray.fingerprint import file_sha256
from moe_ray.store.inside import inside
from moe_ray.store.mirror import Mirror, is_small, is_url, mirrored_paths

JOB_FILE = "ray_job.json"


class JobMark(StoredRecord):
    """Written by the job into its run directory, so that a folder of the same name is not taken for it."""

    version: Literal[1] = 1
    id: str


def write_mark(run: Path, id: str) -> None:
    """Say in the run directory which job works on it."""
    run.mkdir(parents=True, exist_ok=True)
    write_text_atomically(inside(run, JOB_FILE), JobMark(id=id).model_dump_json() + "\n")


def require_place(place: str) -> str:
    """Return `place` without trailing slashes. Raises `UserError` unless it is an absolute folder or an address."""
    if is_url(place):
        Mirror(place)
    elif not Path(place).is_absolute():
        raise UserError(
            f"{place} is relative: the job's own folder is removed after it",
            where="--results-dir",
            remedy="give an absolute folder that outlives the job, on a disk that this machine sees too, or "
            "s3://BUCKET/PREFIX",
        )
    return place.rstrip("/")


def fetch(run: Path, place: str, id: str, *, small_only: bool, on_progress: Callable[[str], object]) -> int:
    """Copy a job's run directory to `run`, small results first; return the number of files that were copied.

    Files that are there with the same content are left; every file appears whole. Raises `UserError` for a folder that
    is not the one that the job wrote; `is_here` asks before.
    """
    wanted = is_small if small_only else all_files
    if is_url(place):
        return Mirror(place).pull(run, wanted=wanted, on_progress=on_progress)
    folder = Path(place)
    require_mark(folder, id)
    if run.exists() and run.samefile(folder):
        return 0
    copied = 0
    for path, size_bytes in sorted(_sizes(folder), key=lambda entry: (not is_small(*entry), entry[1])):
        if wanted(path, size_bytes) and _copy(folder / path, inside(run, path)):
            on_progress(path)
            copied += 1
    return copied


def is_here(place: str, id: str) -> bool:
    """Say whether this machine sees a job's run directory: a mirror, or a folder that this job wrote."""
    if is_url(place):
        return True
    try:
        require_mark(Path(place), id)
    except UserError:
        return False
    return True


def all_files(_path: str, _size_bytes: int) -> bool:
    """Want every file."""
    return True


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in mirrored_paths(folder):
        yield path.as_posix(), (folder / path).stat().st_size


def _copy(source: Path, target: Path) -> bool:
    """Copy a file whole; say whether it was another one before."""
    if (
        target.is_file()
        and target.stat().st_size == source.stat().st_size
        and file_sha256(target) == file_sha256(source)
    ):
        return False
    write_atomically(target, partial(shutil.copyfile, source))
    return True


def require_mark(folder: Path, id: str) -> None:
    """Raise `UserError` unless this job wrote the run directory `folder`."""
    try:
        found = JobMark.model_validate_json(read_bytes(inside(folder, JOB_FILE))).id
    except (OSError, ValidationError):
        found = ""
    if found != id:
        what = f"holds the results of job {found}" if found else "holds no results of this job on this machine"
        raise UserError(
            f"{what}, not of {id}" if found else what,
            where=str(folder),
            remedy="mount the cluster's folder here, copy it by hand, or submit with --results-dir s3://BUCKET/PREFIX",
        )
