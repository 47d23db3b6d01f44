"""Read untrusted files: regular files of a bounded size, JSON with one kind of error."""

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict

from moe_ray.errors import ModelError


class StoredRecord(BaseModel):
    """Base of the records on disk: unknown keys are refused, so that a misspelt field cannot hide."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


MAX_RECORD_BYTES = 64 << 20


class JsonError(ValueError):
    """A text that is not JSON, or that is nested or numbered beyond reading. `line` and `column` count from 1."""

    def __init__(self, what: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(what)
        self.line = line
        self.column = column


def read_bytes(path: Path, *, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
    """Return the content of a regular file; never waits, whatever `path` is.

    Raises `OSError` for a file that is missing, unreadable, larger than `max_bytes`, or not regular (a pipe, a device).
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EINVAL, f"larger than {max_bytes >> 20} MiB", str(path))
    return content


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting for a writer where `path` is a pipe.

    Raises `OSError` where it is missing, unreadable or not regular.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_text(path: Path, *, max_bytes: int = MAX_RECORD_BYTES) -> str:
    """Return the UTF-8 text of a regular file. Raises as `read_bytes` does, and `UnicodeDecodeError`."""
    return read_bytes(path, max_bytes=max_bytes).decode("utf-8")


def read_json(path: Path, *, max_bytes: int = MAX_RECORD_BYTES) -> Any:
    """Return the value of a JSON file. Raises `OSError` as `read_bytes` does, and `ValueError` for what is not JSON."""
    return parse_json(read_text(path, max_bytes=max_bytes))


def parse_json(text: str | bytes, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of a JSON text. Raises `JsonError`, also where `json` would raise something else.

    That is a `RecursionError` for deep nesting, and a plain `ValueError` for a number of more than 4,300 digits.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, line=error.lineno, column=error.colno) from error
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise JsonError("nested too deeply") from error
    except ValueError as error:
        raise JsonError(str(error).partition(" for integer")[0].lower()) from error


def write_json(path: Path, record: StoredRecord) -> None:
    """Write a record as indented JSON."""
    path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, make its bytes durable, and rename it into place.

    A reader, or a process that resumes after a crash, sees the old file or the whole new one. A crash may
    leave a `.tmp` file behind; nothing reads those.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, "tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _temporary(path: Path, ending: str) -> Path:
    """A name beside `path` that cannot be foreseen, so that no link can lie in wait under it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{ending}")


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_directory_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with an empty directory beside `path`, make its files durable, and put it in the place of `path`.

    What was at `path` is replaced whole. Two names cannot change hands in one step: a crash between the two renames
    leaves the old directory under the name `.NAME.RANDOM.old` and nothing at `path`, never a mixture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _temporary(path, "tmp"), _temporary(path, "old")
    try:
        temporary.mkdir()
        write(temporary)
        _sync_tree(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_dir():
            _sync_directory(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    """Make a rename durable. Without this the new name itself could be lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_free(out_dir: Path) -> None:
    """Raise `ModelError` when there is something at `out_dir` already; an empty folder is nothing."""
    if out_dir.exists() and not (out_dir.is_dir() and not any(out_dir.iterdir())):
        raise ModelError("already exists", where=str(out_dir), remedy="name a new folder, or remove this one")


def require_space(out_dir: Path, num_bytes: int) -> None:
    """Raise `ModelError` unless the disk under `out_dir` has room for `num_bytes`."""
    parent = next(path for path in out_dir.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise ModelError(
            f"{num_bytes / 1e9:.2f} GB are needed, and {free / 1e9:.2f} GB are free",
            where=str(parent),
            remedy="free space, or name another disk",
        )


def safetensors_bytes(directory: Path) -> int:
    """Return the size of a checkpoint's weights on the disk."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
