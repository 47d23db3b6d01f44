"""Files and directories that are there whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


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
