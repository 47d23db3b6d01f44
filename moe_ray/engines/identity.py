"""Which of an engine's settings decide its text. Imports no engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_ray.config.schema import is_local_path
from moe_ray.fingerprint import file_sha256

# Settings that only pretend a speed, a size or a fault; they never enter a fingerprint.
EXECUTION_SETTINGS: Mapping[str, frozenset[str]] = {
    "scripted": frozenset(
        {
            "seconds_per_token", "seconds_per_batch", "load_s", "memory_bytes",
            "fail_to_load", "crash_on", "crash_times", "fault_dir", "error_on", "hang_on", "hang_times",
        }
    ),
}  # fmt: skip


def text_settings(engine: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the text; a local file is replaced by its content's hash."""
    ignored = EXECUTION_SETTINGS.get(engine, frozenset())
    return {key: _content(value) for key, value in settings.items() if key not in ignored}


def _content(value: object) -> object:
    if isinstance(value, str) and is_local_path(value) and Path(value).expanduser().is_file():
        return {"sha256": file_sha256(Path(value).expanduser())}
    return value
