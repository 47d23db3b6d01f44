"""Download snapshots to the hub cache or a folder with huggingface_hub, after a check of the disk space.

Finished files are kept when a download ends early; a partial file starts over. Files are downloaded sequentially: the
hub's protocol (Xet) fetches the parts of a file concurrently, and Ctrl-C works in the main thread only.
"""

import errno
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from moe_ray.checkpoints.repository import RemoteFile, Snapshot, refused
from moe_ray.errors import ModelError, RunFailedError
from moe_ray.fingerprint import file_sha256
from moe_ray.formatting import size
from moe_ray.hub import hub_errors

NUM_QUESTIONS_AT_ONCE = 8
SPACE_REMEDY = "free space, name another disk (--to FOLDER, or HF_HOME), or fetch less (--only MODEL)"
AGAIN = "remedy: run the same command again; the files that came are kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadJob:
    """A snapshot, its target folder (None: the hub cache), and the files that are missing there."""

    snapshot: Snapshot
    folder: Path | None
    missing: tuple[RemoteFile, ...]

    @property
    def num_bytes_missing(self) -> int:
        return sum(file.num_bytes for file in self.missing)

    @property
    def place(self) -> Path:
        """The folder that is written to."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) if self.folder is None else self.folder


def make_job(snapshot: Snapshot, folder: Path | None) -> DownloadJob:
    """Find the files of `snapshot` that are missing in `folder` or the hub cache. Raises `ModelError`."""
    from huggingface_hub import hf_hub_download

    def is_missing(file: RemoteFile) -> bool:
        found = hf_hub_download(
            snapshot.repository.repo, file.name, revision=snapshot.commit, local_dir=folder, dry_run=True
        )
        return found.will_download or not (folder is None or (folder / file.name).is_file())

    try:
        with ThreadPoolExecutor(NUM_QUESTIONS_AT_ONCE) as pool:
            answers = list(pool.map(is_missing, snapshot.files))
    except hub_errors() as error:
        raise refused(snapshot.repository, error) from error
    missing = tuple(file for file, absent in zip(snapshot.files, answers, strict=True) if absent)
    return DownloadJob(snapshot=snapshot, folder=folder, missing=missing)


def require_space(
    jobs: Sequence[DownloadJob], more: Iterable[tuple[Path, int]] = (), remedy: str = SPACE_REMEDY
) -> None:
    """Raise `ModelError` unless each disk has space for its downloads; `more` are other folders and their bytes."""
    needed: dict[int, int] = {}
    downloads = [*((job.place, job.num_bytes_missing) for job in jobs), *more]
    for place, num_bytes in downloads:
        device = _existing(place).stat().st_dev
        needed[device] = needed.get(device, 0) + num_bytes
    for place, _ in downloads:
        folder = _existing(place)
        free, wanted = shutil.disk_usage(folder).free, needed[folder.stat().st_dev]
        if wanted > free:
            raise ModelError(
                f"{size(wanted)} are still to be fetched, and {size(free)} are free",
                where=str(place),
                remedy=remedy,
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def run_job(job: DownloadJob, on_bytes: Callable[[int], object]) -> Path:
    """Download the missing files and return the folder of the snapshot. `on_bytes` receives numbers of bytes.

    Raises `ModelError` for errors of the hub or the disk, `RunFailedError` for a broken connection or a damaged file.
    """
    from huggingface_hub import hf_hub_download

    snapshot, bar = job.snapshot, _progress_bar(on_bytes)
    repo = snapshot.repository.repo
    try:
        for file in snapshot.files:
            path = Path(
                hf_hub_download(repo, file.name, revision=snapshot.commit, local_dir=job.folder, tqdm_class=bar)
            )
            if file in job.missing:
                _require_whole(path, file)
        if job.folder is not None:
            return job.folder
        # Record the revision's commit in the cache, for offline use.
        named = Path(hf_hub_download(repo, snapshot.files[0].name, revision=snapshot.repository.revision))
    except hub_errors() as error:
        raise _failure(job, error) from error
    if named.parent.name != snapshot.commit:
        raise RunFailedError(f"{repo} was changed while it was fetched\n  {AGAIN}")
    return named.parent


def _require_whole(path: Path, file: RemoteFile) -> None:
    """Raise `RunFailedError` and delete the file if its hash is wrong; huggingface_hub compares sizes only."""
    if file.sha256 is not None and file_sha256(path) != file.sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)  # in the cache, a dangling link
        raise RunFailedError(f"{file.name} came damaged: its checksum is wrong\n  remedy: run the same command again")


def _progress_bar(on_bytes: Callable[[int], object]) -> type[Any]:
    """Return a class with the tqdm methods that huggingface_hub calls."""

    class Bar:
        def __init__(self, **_: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

        def update(self, num_bytes: float | None = 1) -> None:
            on_bytes(int(num_bytes or 0))

        def update_transfer(self, num_bytes: float | None = 1) -> None: ...

        def set_postfix_str(self, text: str, refresh: bool = False) -> None: ...

        def set_transfer_postfix_str(self, text: str, refresh: bool = False) -> None: ...

    return Bar


def _failure(job: DownloadJob, error: Exception) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return refused(job.snapshot.repository, error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(
            "the disk is full",
            where=str(job.place),
            remedy="free space and run the same command again; the files that came are kept",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return ModelError(f"cannot be written: {error.strerror}", where=str(job.place), remedy="name another folder")
    return RunFailedError(f"the connection broke while {job.snapshot.repository.repo} was fetched\n  {AGAIN}")
