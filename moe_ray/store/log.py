"""log.txt of a run directory: what happened when, a line for each event, in UTC.

Lines are only ever appended. Nothing is read back from the file, and no fingerprint covers it.
"""

import os
import stat
import time
from collections.abc import Callable, Collection
from pathlib import Path

from moe_ray.characters import one_line

LOG_FILE = "log.txt"
HIDDEN = "***"
# Shorter values (an empty variable, "1") are no keys, and would hide parts of other words.
MIN_SECRET_CHARACTERS = 8


class RunLog:
    """Appends lines to a run's log.txt, as soon as its directory is there.

    `secrets` are values that must not be written. A disk that takes no line ends the log, never the run. A link or
    anything else that is not a regular file is left alone.
    """

    def __init__(self, directory: Path, *, secrets: Collection[str] = (), now: Callable[[], float] = time.time) -> None:
        self._path = directory / LOG_FILE
        self._secrets = [secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS]
        self._now = now
        self._waiting: list[str] = []
        self._is_over = False

    def write(self, text: str) -> None:
        """Append `text` as one line with the time."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))
        self._waiting.append(f"{moment} {one_line(text)}\n")
        if self._path.parent.is_dir() and not self._is_over:
            self._flush()

    def _flush(self) -> None:
        try:
            _append(self._path, "".join(self._waiting))
        except OSError:
            self._is_over = True
        self._waiting.clear()


def _append(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(f"{path} is not a regular file")
        os.write(opened, text.encode("utf-8", "backslashreplace"))
    finally:
        os.close(opened)
