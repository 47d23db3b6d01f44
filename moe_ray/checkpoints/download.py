"""Download snapshots into the hub cache or a folder: disk space is checked first, files download in parallel."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO, Protocol

from moe_ray.checkpoints.repository import RemoteFile, Snapshot, refused
from moe_ray.errors import ModelError, RunFailedError
from moe_ray.fingerprint import FILE_CHUNK_BYTES, file_sha256
from moe_ray.formatting import size
from moe_ray.hub import hub_errors

PARTIAL_SUFFIX = ".moe_ray.incomplete"


class StoppedError(Exception):
    """The download was told to stop. What came so far is in the partial file."""


def partial_path(path: Path) -> Path:
    """Where the bytes of `path` are until it is whole."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def num_bytes_there(path: Path, file: RemoteFile) -> int:
    """Bytes of `file` that need not be fetched: of `path`, or of its partial file."""
    if path.exists():
        return file.num_bytes
    partial = partial_path(path)
    return min(partial.stat().st_size, file.num_bytes) if partial.exists() else 0


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Say whether `path` holds `file`: its size, and its SHA-256 or git's hash, where the hub told one."""
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    if file.sha256 is not None:
        return file_sha256(path) == file.sha256
    return file.blob_id is None or _git_hash(path) == file.blob_id


def fetch(
    url: str, headers: dict[str, str], path: Path, file: RemoteFile, told: Callable[[int], None], stop: Event
) -> None:
    """Fetch `file` to `path`, going on where its partial file ends.

    `told` gets the number of bytes that came (negative when the server would not go on, so that the file begins anew).
    Raises `RunFailedError` when the file came damaged or another process is fetching it, `StoppedError` once `stop` is
    set, and what the network and the disk raise.
    """
    from huggingface_hub.file_download import http_get

    partial = partial_path(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as raw:
        _lock(raw, file)
        if raw.tell() > file.num_bytes:
            raw.truncate(0)
        counted = _Counted(raw, told, stop)
        http_get(url, counted, resume_size=counted.tell(), headers=headers, expected_size=file.num_bytes)  # type: ignore[arg-type]
        raw.flush()
        os.fsync(raw.fileno())
        if not is_whole(partial, file):
            partial.unlink()
            told(-file.num_bytes)
            raise RunFailedError(
                f"{file.name} came damaged: its checksum is wrong\n  remedy: run the same command again"
            )
        partial.replace(path)


def _lock(raw: BinaryIO, file: RemoteFile) -> None:
    try:
        fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunFailedError(
            f"another process is fetching {file.name}\n  remedy: wait for it, then run the same command again"
        ) from error
    raw.seek(0, os.SEEK_END)


class _Counted:
    """A file that tells how many bytes were written to it, and can be stopped between two writes."""

    def __init__(self, raw: BinaryIO, told: Callable[[int], None], stop: Event) -> None:
        self._raw, self._told, self._stop = raw, told, stop

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise StoppedError
        num_bytes = self._raw.write(data)
        self._told(num_bytes)
        return num_bytes

    def truncate(self) -> int:
        """Cut at the position; http_get does so when the server sends the whole file again."""
        before = self._raw.seek(0, os.SEEK_END)
        self._told(-before)
        return self._raw.truncate(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()


def _git_hash(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(FILE_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


NUM_FILES_AT_ONCE = 4
AGAIN = "remedy: run the same command again; it continues where this one stopped"


class Destination(Protocol):
    """Where a snapshot goes."""

    folder: Path

    def path_of(self, file: RemoteFile) -> Path:
        """Where the bytes of `file` are to be."""
        ...

    def has(self, file: RemoteFile) -> bool:
        """Say whether `file` is there already."""
        ...

    def finish(self, snapshot: Snapshot) -> Path:
        """Make the snapshot known, once its files are there; returns the folder that a model is loaded from."""
        ...


class CachePlace:
    """The hub cache: bytes lie under their hash, and transformers finds them by repository and revision."""

    def __init__(self, snapshot: Snapshot) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        self._repo, self._commit = snapshot.repository.repo, snapshot.commit
        self.folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self._repo, repo_type="model")

    def path_of(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / (file.sha256 or file.blob_id or file.name)

    def has(self, file: RemoteFile) -> bool:
        return self.path_of(file).exists() or (self.folder / "snapshots" / self._commit / file.name).exists()

    def finish(self, snapshot: Snapshot) -> Path:
        """Link the files into the snapshot, and write down which commit the revision is, for offline use."""
        from huggingface_hub import hf_hub_download

        paths = [hf_hub_download(self._repo, file.name, revision=self._commit) for file in snapshot.files]
        folder = Path(paths[0]).parent
        named = hf_hub_download(self._repo, snapshot.files[0].name, revision=snapshot.repository.revision)
        if Path(named).parent != folder:
            raise RunFailedError(f"{self._repo} was changed while it was fetched\n  {AGAIN}")
        return folder


class FolderPlace:
    """A folder of its own, that can be carried to another machine and named as a local path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, file: RemoteFile) -> Path:
        return self.folder / file.name

    def has(self, file: RemoteFile) -> bool:
        return is_whole(self.path_of(file), file)

    def finish(self, snapshot: Snapshot) -> Path:
        """Leave to huggingface_hub what plain HTTP does not serve."""
        from huggingface_hub import hf_hub_download

        for file in snapshot.files:
            if not self.path_of(file).exists():
                hf_hub_download(snapshot.repository.repo, file.name, revision=snapshot.commit, local_dir=self.folder)
        return self.folder


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadJob:
    """A snapshot, its place, and what is missing there."""

    snapshot: Snapshot
    place: Destination
    missing: tuple[RemoteFile, ...]

    @property
    def num_bytes_missing(self) -> int:
        there = sum(num_bytes_there(self.place.path_of(file), file) for file in self.missing)
        return sum(file.num_bytes for file in self.missing) - there


def make_job(snapshot: Snapshot, folder: Path | None) -> DownloadJob:
    """Find out what is missing of `snapshot` in the hub cache, or in `folder`."""
    place = CachePlace(snapshot) if folder is None else FolderPlace(folder)
    return DownloadJob(
        snapshot=snapshot, place=place, missing=tuple(file for file in snapshot.files if not place.has(file))
    )


def require_space(jobs: Sequence[DownloadJob]) -> None:
    """Raise `ModelError` unless each disk has room for what will come onto it."""
    needed: dict[int, int] = {}
    for job in jobs:
        device = _existing(job.place.folder).stat().st_dev
        needed[device] = needed.get(device, 0) + job.num_bytes_missing
    for job in jobs:
        folder = _existing(job.place.folder)
        free, wanted = shutil.disk_usage(folder).free, needed[folder.stat().st_dev]
        if wanted > free:
            raise ModelError(
                f"{size(wanted)} are still to be fetched, and {size(free)} are free",
                where=str(job.place.folder),
                remedy="free space, name another disk (--to FOLDER, or HF_HOME), or fetch less (--only MODEL)",
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def run_job(job: DownloadJob, told: Callable[[int], None]) -> Path:
    """Fetch what is missing and return the folder of the snapshot. `told` gets the numbers of bytes that came.

    Raises `ModelError` when the hub or the disk refuses, `RunFailedError` when the connection breaks; whatever ends it,
    the bytes that came are kept.
    """
    from huggingface_hub import constants

    stop = Event()
    small_enough = [file for file in job.missing if file.num_bytes <= constants.MAX_HTTP_DOWNLOAD_SIZE]
    try:
        with ThreadPoolExecutor(NUM_FILES_AT_ONCE) as pool:
            try:
                futures = [pool.submit(_fetch, job, file, told, stop) for file in small_enough]
                for future in as_completed(futures):
                    future.result()
            except BaseException:  # an interrupt too: the other threads must end before this one can
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return job.place.finish(job.snapshot)
    except hub_errors() as error:
        raise _broken(job, error) from error


def _fetch(job: DownloadJob, file: RemoteFile, told: Callable[[int], None], stop: Event) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # listed, but not in __all__

    url = hf_hub_url(job.snapshot.repository.repo, file.name, revision=job.snapshot.commit)
    fetch(url, build_hf_headers(), job.place.path_of(file), file, told, stop)


def _broken(job: DownloadJob, error: Exception) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return refused(job.snapshot.repository, error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(
            f"the disk is full: {size(job.num_bytes_missing)} are still missing",
            where=str(job.place.folder),
            remedy="free space and run the same command again; it continues where this one stopped",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return ModelError(
            f"cannot be written: {error.strerror}", where=str(job.place.folder), remedy="name another folder"
        )
    name = job.snapshot.repository.repo
    missing = size(job.num_bytes_missing)
    return RunFailedError(f"the connection broke; {missing} of {name} are still missing\n  {AGAIN}")
