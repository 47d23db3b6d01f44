"""Copies of checkpoints on a node's own disk: one copy per node, shared by its processes, whole or not used.

FOLDER/
    KEY/                a copy; whole when each file of its manifest is there in its size
        manifest.json   the source, and the size of each file
        incoming        the file that is being copied; it is renamed into files/ when it is on the disk
        files/NAME      what engines read
    KEY.copy.lock       held by the process that makes or removes the copy
    KEY.use.lock        shared by the processes that use the copy, until they end
    room.lock           held while space is reserved

KEY is a fingerprint of the source's path and of the name, size and times of each of its files, not of their bytes: to
hash a checkpoint would read it from the shared disk once more, which is what the copy saves. Locks are `flock`, which
falls with its process, however it ends.
"""

import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from moe_ray.checkpoints.staged_files import NotStagedError, SourceFile, copy_file
from moe_ray.files import StoredRecord, read_bytes, write_text_atomically
from moe_ray.fingerprint import fingerprint
from moe_ray.formatting import size
from moe_ray.mounts import mount_of

# Ray refuses to store objects on a disk that is fuller than 95 %; its files may be on the same one.
FREE_SHARE = 0.05
_KEY = re.compile(r"[0-9a-f]{32}")


class CopyManifest(StoredRecord):
    """What a copy holds. `files` maps names to sizes in bytes."""

    source: str
    files: dict[str, int]

    @property
    def num_bytes(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedCopy:
    """A copy that this process uses; `close` gives it back. `copy_s` is None where the copy was there already."""

    path: Path
    num_bytes: int
    copy_s: float | None
    lock: int

    def close(self) -> None:
        """Allow the removal of the copy."""
        os.close(self.lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What a copy of another checkpoint takes: bytes when it is whole, bytes that are there, time of the last use."""

    key: str
    num_bytes: int
    num_bytes_there: int
    used_at: float


class StagingFolder:
    """The folder of copies. Raises `NotStagedError` where it is not this user's own, or not on a disk of this node."""

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        _make_own(folder)

    def copy_of(self, source: Path, files: Sequence[SourceFile], name: str) -> StagedCopy:
        """Return the node's copy of `source`, a folder or a file; makes it, or waits while another process does.

        Its path ends in `name`, the source's own name where it is a file.

        Raises `NotStagedError` where there is no room for it or the source changes, `OSError` of either disk.
        """
        content = [[file.name, file.num_bytes, *file.changed_ns] for file in files]
        key = fingerprint({"source": str(source), "name": name, "files": content})
        top = "" if source.is_file() else f"{name}/"
        manifest = CopyManifest(source=str(source), files={f"{top}{file.name}": file.num_bytes for file in files})
        copy_s: float | None = None
        with self._locked(key, "copy"):
            if not self._is_whole(key, manifest):
                started = time.monotonic()
                self._make(key, manifest, top, files)
                copy_s = time.monotonic() - started
            lock = self._lock((key, "use"), fcntl.LOCK_SH)
            os.utime(lock)
        path = self._folder / key / "files" / name
        return StagedCopy(path=path, num_bytes=manifest.num_bytes, copy_s=copy_s, lock=lock)

    def _is_whole(self, key: str, manifest: CopyManifest) -> bool:
        """Say whether the copy has all its files: it may be interrupted, or a cleaner of old files was there."""
        files = self._folder / key / "files"
        return all(_size(files / name) == num_bytes for name, num_bytes in manifest.files.items())

    def _make(self, key: str, manifest: CopyManifest, top: str, files: Sequence[SourceFile]) -> None:
        folder = self._folder / key
        (folder / "incoming").unlink(missing_ok=True)
        self._reserve(key, manifest)
        try:
            for file in files:
                target = folder / "files" / f"{top}{file.name}"
                if _size(target) != file.num_bytes:
                    copy_file(file, target, folder / "incoming")
        except (NotStagedError, OSError):
            self._give_up(key)
            raise

    def _give_up(self, key: str) -> None:
        """Free the space of a copy that cannot be completed, unless a process uses what was there of it."""
        (self._folder / key / "incoming").unlink(missing_ok=True)
        with self._locked("room"), ExitStack() as held:
            if self._is_free(key, ("use",), held):
                shutil.rmtree(self._folder / key, ignore_errors=True)

    def _reserve(self, key: str, manifest: CopyManifest) -> None:
        """Make room, by removing copies that no process uses, oldest first. Raises `NotStagedError` without any."""
        folder = self._folder / key
        with self._locked("room"), ExitStack() as held:
            others = sorted((entry for entry in self._entries() if entry.key != key), key=lambda entry: entry.used_at)
            victims: list[_Entry] = []
            waiting = list(others)
            while (lack := self._lack(manifest, _tree_bytes(folder), others, victims)) is not None:
                if not waiting or manifest.num_bytes > (self._max_bytes or manifest.num_bytes):
                    raise NotStagedError(lack)
                if self._is_free(waiting[0].key, ("copy", "use"), held):
                    victims.append(waiting[0])
                del waiting[0]
            for victim in victims:
                shutil.rmtree(self._folder / victim.key, ignore_errors=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            write_text_atomically(folder / "manifest.json", manifest.model_dump_json())

    def _lack(
        self, manifest: CopyManifest, num_there: int, others: Sequence[_Entry], victims: Sequence[_Entry]
    ) -> str | None:
        """Say what is lacking for the copy once the victims are removed; None where there is room."""
        kept = [entry for entry in others if entry not in victims]
        total = manifest.num_bytes + sum(entry.num_bytes for entry in kept)
        if self._max_bytes is not None and total > self._max_bytes:
            return f"its {size(manifest.num_bytes)} would exceed the limit of {size(self._max_bytes)}"
        disk = shutil.disk_usage(self._folder)
        freed = sum(entry.num_bytes_there for entry in victims)
        promised = sum(max(0, entry.num_bytes - entry.num_bytes_there) for entry in kept)
        free = disk.free + freed - promised - int(disk.total * FREE_SHARE)
        missing = manifest.num_bytes - num_there
        return f"it needs {size(missing)}, and {size(max(0, free))} may be used" if missing > free else None

    def _is_free(self, key: str, what: Sequence[str], held: ExitStack) -> bool:
        """Say whether no process holds these locks of a copy, and keep it so while `held` is open."""
        with ExitStack() as locks, suppress(BlockingIOError):
            for name in what:
                locks.callback(os.close, self._lock((key, name), fcntl.LOCK_EX | fcntl.LOCK_NB))
            held.push(locks.pop_all())
            return True
        return False

    def _entries(self) -> Iterator[_Entry]:
        for folder in self._folder.iterdir():
            if _KEY.fullmatch(folder.name) is None or not folder.is_dir():
                continue
            manifest, num_there = _manifest(folder), _tree_bytes(folder)
            lock = self._folder / f"{folder.name}.use.lock"
            yield _Entry(
                key=folder.name,
                num_bytes=num_there if manifest is None else manifest.num_bytes,
                num_bytes_there=num_there,
                used_at=lock.stat().st_mtime if lock.exists() else folder.stat().st_mtime,
            )

    @contextmanager
    def _locked(self, *name: str) -> Iterator[None]:
        lock = self._lock(name, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)

    def _lock(self, name: Sequence[str], operation: int) -> int:
        path = self._folder / ".".join((*name, "lock"))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _make_own(folder: Path) -> None:
    """Create the folder, which only this user may enter. Raises `NotStagedError` for one of another user."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise NotStagedError(f"{folder} is not a folder that this user alone may change")
    mount = mount_of(folder)
    if mount is not None and mount.is_network:
        raise NotStagedError(f"{folder} is not on a disk of this node, but on {mount.kind}")


def _manifest(folder: Path) -> CopyManifest | None:
    try:
        return CopyManifest.model_validate_json(read_bytes(folder / "manifest.json"))
    except (OSError, ValidationError):
        return None


def _size(path: Path) -> int | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _tree_bytes(folder: Path) -> int:
    return sum(_size(path) or 0 for path in folder.rglob("*"))
