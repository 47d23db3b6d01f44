"""One file, fetched into a partial file that the next command goes on with, and kept only when its hash is right.

huggingface_hub goes on with a file while its process lives; a process that was killed begins each unfinished file anew.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import BinaryIO

from moe_ray.downloads.selection import RemoteFile
from moe_ray.errors import RunFailedError
from moe_ray.fingerprint import FILE_CHUNK_BYTES, file_sha256

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
