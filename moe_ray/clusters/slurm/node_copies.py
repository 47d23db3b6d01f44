"""A node's folder for copies of checkpoints, as the site file's `staging` asks for it."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from moe_ray.checkpoints.staging import FOLDER_VARIABLE, MAX_BYTES_VARIABLE
from moe_ray.errors import UserError

GIB = 1 << 30
JOB_LOCK = "job.lock"


class CopyOptions(NamedTuple):
    """Where copies are made (None: nowhere; with variables of the node), if they are kept, and how large they get."""

    folder: str | None = None
    keep: bool = False
    max_gib: float | None = None


class NodeCopies:
    """The folder of one job on one node. Unless the copies are kept, `close` removes it."""

    def __init__(self, options: CopyOptions, marker: str) -> None:
        self._options = options
        self._marker = marker
        self._folder: Path | None = None
        self._lock: int | None = None

    def open(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables by which this node's processes find the folder; none without `staging`.

        Raises `UserError` where the node has no such folder: the job can do without.
        """
        if self._options.folder is None:
            return {}
        parent, name = _expanded(self._options.folder, environment), f"moe-ray-{os.getuid()}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(parent, name)
            folder = parent / name if self._options.keep else self._make_own(parent, f"{name}-{self._marker}")
        except OSError as error:
            raise UserError(
                f"cannot be used: {error.strerror or error}",
                where=f"{parent} (staging.folder)",
                remedy="name a folder on the node's own disk that you may write to",
            ) from error
        limit = self._options.max_gib
        size = {} if limit is None else {MAX_BYTES_VARIABLE: str(int(limit * GIB))}
        return {FOLDER_VARIABLE: str(folder), **size}

    def close(self) -> None:
        """Remove this job's copies. Call it when no process uses them any more."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._folder = self._lock = None

    def _make_own(self, parent: Path, name: str) -> Path:
        """Create this job's folder. It is new: a job of another cluster on this machine may have the same id.

        It gets its name when its lock is held, so that no other job removes it.
        """
        new = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
        folder = parent / new.name.removeprefix(".")
        self._lock = os.open(new / JOB_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(folder)
        self._folder = folder
        return folder


def _expanded(folder: str, environment: Mapping[str, str]) -> Path:
    """Replace variables by the node's. Raises `UserError` for one that is not set, or a path that is not absolute."""
    missing = [name for name in re.findall(r"\$\{?(\w+)", folder) if not environment.get(name)]
    if missing:
        raise UserError(
            f"{missing[0]} is not set on the node",
            where=f"{folder} (staging.folder)",
            remedy="name a folder on the node's own disk, or a variable that SLURM sets in jobs",
        )
    path = Path(re.sub(r"\$\{?(\w+)\}?", lambda match: environment[match[1]], folder))
    if not path.is_absolute():
        raise UserError("is not an absolute path", where=f"{path} (staging.folder)", remedy="name it from /")
    return path


def _remove_abandoned(parent: Path, name: str) -> None:
    """Remove what jobs of this user left that were killed: their locks are free."""
    for folder in parent.glob(f"{name}-*"):
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / JOB_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
