"""One command at a time works on a run directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from moe_ray.errors import RunDirectoryError
from moe_ray.store.run_directory import RunDirectory


@contextmanager
def exclusive(run: RunDirectory) -> Iterator[None]:
    """Hold the run directory for this process; the lock falls with the process, however it ends.

    Raises `RunDirectoryError`, naming the other process, when it is held already.
    """
    path = run.path / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise RunDirectoryError(
                f"another moe-ray process ({file.read().strip() or 'unknown'}) is working in this directory",
                where=str(run.path),
                remedy="wait for it, stop it, or choose another --results-dir",
            ) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield
