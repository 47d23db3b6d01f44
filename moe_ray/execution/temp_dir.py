"""The folder for Ray's temporary files, whose length is limited."""

import os
import tempfile
from pathlib import Path

from moe_ray.errors import UserError

# The path of a Unix socket has at most 107 bytes; Ray's are in FOLDER/session_DATE_TIME_PID/sockets, and the number of
# a process has up to seven digits.
MAX_SOCKET_BYTES = 107
SESSION = "session_2026-01-01_00-00-00_000000_1234567"
SOCKET = "sockets/plasma_store"
MAX_TEMP_DIR_BYTES = MAX_SOCKET_BYTES - len(f"/{SESSION}/{SOCKET}")


def ray_temp_dir(configured: Path | None) -> str | None:
    """Return `runtime.temp_dir` as Ray takes it. Raises `UserError` for a path that is too long for Ray's sockets."""
    if configured is None:
        return None
    path = configured.expanduser().resolve()
    num_bytes = len(os.fsencode(path))
    if num_bytes > MAX_TEMP_DIR_BYTES:
        raise UserError(
            f"{path} has {num_bytes} bytes; Ray's sockets below it allow {MAX_TEMP_DIR_BYTES}",
            where="runtime.temp_dir",
            remedy=f"choose a shorter folder, such as {tempfile.gettempdir()}/ray-me",
        )
    return str(path)
