"""Reading files that somebody else may have written: regular files of a bounded size, JSON with one kind of error."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

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
