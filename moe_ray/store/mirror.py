"""A copy of a run directory on an object store or another file system, through fsspec.

PREFIX/manifests/GENERATION.json   what the mirror holds: path, object, size and SHA-256 of each file
PREFIX/files/PATH.SHA256           the files; an object is never overwritten

A manifest is written after all objects that it lists, and readers trust only manifests. So an upload that is killed at
any moment leaves the mirror as it was. Objects that the newest manifests do not list are removed after the next one.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from moe_ray.errors import RunDirectoryError, UserError, first_line
from moe_ray.files import StoredRecord, write_atomically
from moe_ray.fingerprint import file_sha256
from moe_ray.store.inside import inside

SMALL_FILE_BYTES = 16 << 20
LARGE_FOLDERS = ("answers", "routers")
KEPT_MANIFESTS = 2
HASH_CHARACTERS = 16
MAX_SNAPSHOTS = 20
_ADDRESSES = "write s3://BUCKET/PREFIX, or a folder"
_MANIFESTS, _FILES = "manifests", "files"


class MirroredFile(StoredRecord):
    """One file of the run directory. `object` is its name below the prefix."""

    object: str
    size_bytes: int = Field(ge=0)
    sha256: str


class MirrorManifest(StoredRecord):
    """The content of a mirror. `writer` is the submission that wrote this generation."""

    version: Literal[1] = 1
    generation: int = Field(ge=1)
    writer: str
    files: dict[str, MirroredFile]


class MirrorTakenError(RunDirectoryError):
    """Another job wrote to the mirror meanwhile."""


class _FileGoneError(Exception):
    """A file of the run directory was removed before it was copied."""


class _Known(NamedTuple):
    stamp: tuple[int, int]
    file: MirroredFile


def is_url(place: str) -> bool:
    """Say whether `place` is an address of fsspec, such as s3://BUCKET/PREFIX; else it is a folder."""
    return "://" in place


def is_small(path: str, size_bytes: int) -> bool:
    """Say whether a file of a run directory is one of its small results."""
    return PurePosixPath(path).parts[0] not in LARGE_FOLDERS and size_bytes <= SMALL_FILE_BYTES


def mirrored_paths(folder: Path) -> Iterator[Path]:
    """Yield the files of a run directory that are copied: all but hidden ones, which are locks and unfinished files."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts) and path.is_file() and not path.is_symlink():
            yield relative


class Mirror:
    """Reads and writes one mirror. `writer` names who writes; a mirror that is only read needs none.

    Every method raises `RunDirectoryError` where the store does not answer as it should. The constructor raises
    `UserError` for an address that fsspec has no file system for.
    """

    def __init__(self, url: str, *, writer: str = "") -> None:
        self.url = url.rstrip("/")
        self._writer = writer
        self._fs, self._prefix = _file_system(self.url)
        self._known: dict[str, _Known] = {}
        self._seen_generation: int | None = None

    def manifest(self) -> MirrorManifest | None:
        """Return the newest whole manifest; None where nothing was mirrored."""
        with self._reached():
            for name in reversed(self._names(_MANIFESTS)):
                with contextlib.suppress(ValidationError, FileNotFoundError):
                    return MirrorManifest.model_validate_json(self._fs.cat_file(name))
        return None

    def push(self, folder: Path) -> MirrorManifest:
        """Upload what changed in `folder` since the newest manifest, then write a manifest. No change, no manifest.

        Raises `MirrorTakenError` if another writer wrote a manifest since this object read or wrote the last one.
        """
        before = self._require_own()
        with tempfile.TemporaryDirectory(prefix="moe-ray-mirror-") as scratch, self._reached():
            for _ in range(MAX_SNAPSHOTS):
                with contextlib.suppress(_FileGoneError):
                    files = self._upload(folder, Path(scratch) / "snapshot", before.files if before else {})
                    break
            else:
                raise self._failed(f"the files of {folder} did not stay for the time of a copy")
            self._require_own()
            if before is not None and before.files == files:
                return before
            generation = before.generation + 1 if before else 1
            manifest = MirrorManifest(generation=generation, writer=self._writer, files=files)
            self._put_text(f"{_MANIFESTS}/{generation:08}.json", manifest.model_dump_json(), Path(scratch))
            self._seen_generation = generation
            self._remove_unlisted(before, manifest)
        return manifest

    def pull(
        self,
        folder: Path,
        *,
        wanted: Callable[[str, int], bool] = lambda _path, _size: True,
        on_progress: Callable[[str], object],
    ) -> int:
        """Copy the mirror's files to `folder`, small results first; return the number of files that were copied.

        `wanted` takes a file's path and size in bytes. A file that is there with the same content is left. A copied
        file appears whole, after its size and hash were compared with the manifest.
        """
        manifest = self.manifest()
        self._seen_generation = manifest.generation if manifest else 0
        files = manifest.files if manifest else {}
        chosen = [(path, file) for path, file in files.items() if wanted(path, file.size_bytes)]
        chosen.sort(key=lambda entry: (not is_small(entry[0], entry[1].size_bytes), entry[1].size_bytes))
        copied = 0
        for path, file in chosen:
            require_plain(path, self.url)
            target = inside(folder, path)
            if not _is_there(target, file):
                on_progress(path)
                write_atomically(target, partial(self._get, file))
                copied += 1
        return copied

    def _get(self, file: MirroredFile, temporary: Path) -> None:
        with self._reached():
            self._fs.get_file(f"{self._prefix}/{file.object}", str(temporary))
        if temporary.stat().st_size != file.size_bytes or file_sha256(temporary) != file.sha256:
            raise self._failed(f"{file.object} is not what the manifest lists")

    def _upload(self, folder: Path, snapshot: Path, before: Mapping[str, MirroredFile]) -> dict[str, MirroredFile]:
        return {
            relative.as_posix(): self._uploaded(folder, relative.as_posix(), snapshot, before)
            for relative in mirrored_paths(folder)
        }

    def _uploaded(self, folder: Path, path: str, snapshot: Path, before: Mapping[str, MirroredFile]) -> MirroredFile:
        """Return the entry of a file whose object is complete. The file may grow meanwhile: a copy is uploaded."""
        source = folder / path
        known = self._known.get(path)
        try:
            stat = source.stat()
            stamp = (stat.st_size, stat.st_mtime_ns)
            if known is not None and known.stamp == stamp and before.get(path) == known.file:
                return known.file
            shutil.copyfile(source, snapshot)
        except FileNotFoundError as error:  # small answer files were merged meanwhile
            raise _FileGoneError(path) from error
        sha256, size_bytes = file_sha256(snapshot), snapshot.stat().st_size
        name = f"{_FILES}/{path}.{sha256[:HASH_CHARACTERS]}"
        file = MirroredFile(object=name, size_bytes=size_bytes, sha256=sha256)
        if before.get(path) != file:
            self._put(snapshot, name, size_bytes)
        self._known[path] = _Known(stamp, file)
        return file

    def _put(self, source: Path, name: str, size_bytes: int) -> None:
        self._fs.put_file(str(source), f"{self._prefix}/{name}")
        self._fs.invalidate_cache()
        stored = self._fs.info(f"{self._prefix}/{name}")["size"]
        if stored != size_bytes:
            raise self._failed(f"{name} has {stored} bytes after {size_bytes} were uploaded")

    def _put_text(self, name: str, text: str, scratch: Path) -> None:
        source = scratch / "manifest.json"
        source.write_text(text, encoding="utf-8")
        self._put(source, name, source.stat().st_size)

    def _remove_unlisted(self, before: MirrorManifest | None, manifest: MirrorManifest) -> None:
        """Remove old manifests, and the objects that neither `manifest` nor the one before it lists."""
        for old in self._names(_MANIFESTS)[:-KEPT_MANIFESTS]:
            self._fs.rm_file(old)
        listed = {file.object for one in (before, manifest) if one for file in one.files.values()}
        kept = {f"{self._prefix}/{name}" for name in listed}
        for name in self._fs.find(f"{self._prefix}/{_FILES}"):
            if name not in kept:
                self._fs.rm_file(name)

    def _names(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            return sorted(str(name) for name in self._fs.ls(f"{self._prefix}/{folder}", detail=False))
        except FileNotFoundError:
            return []

    def _require_own(self) -> MirrorManifest | None:
        current, seen = self.manifest(), self._seen_generation
        if current is not None and seen is not None and current.generation > seen:
            raise MirrorTakenError(
                f"{current.writer} wrote generation {current.generation}, after generation {seen} of this job",
                where=self.url,
                remedy="two jobs of one run are alive: stop one with `moe-ray stop RUN`",
            )
        return current

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what a file system raises into one error; each of fsspec's has its own exceptions."""
        try:
            yield
        except (RunDirectoryError, _FileGoneError):
            raise
        except Exception as error:
            raise self._failed(f"{type(error).__name__}: {first_line(error)}") from error

    def _failed(self, what: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"the mirror cannot be used: {what}",
            where=self.url,
            remedy="check the address, the network and the credentials; the same command resumes",
        )


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the prefix without its protocol."""
    import fsspec

    protocol = url.partition("://")[0]
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    if not protocol:
        raise UserError("names no protocol", where=url, remedy=_ADDRESSES)
    try:
        fs, prefix = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise UserError(
            first_line(error), where=url, remedy=f"install the package for {protocol}:// here and on the cluster"
        ) from error
    except ValueError as error:
        raise UserError(first_line(error), where=url, remedy=_ADDRESSES) from error
    return fs, str(prefix).rstrip("/")


def _is_there(path: Path, file: MirroredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes and file_sha256(path) == file.sha256


def require_plain(path: str, where: str) -> None:
    """Refuse a path that leads out of a run directory, or to a hidden file: the list at `where` may be hostile."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or any(part.startswith(".") for part in parts):
        raise RunDirectoryError(f"lists the path {path!r}", where=where, remedy="use results that moe-ray wrote")
