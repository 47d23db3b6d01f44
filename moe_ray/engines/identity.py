"""Which of an engine's settings decide its text. Imports no engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_ray.config.schema import is_local_path
from moe_ray.fingerprint import file_sha256

_API_EXECUTION_SETTINGS = frozenset(
    {"api_key_env", "max_concurrent_requests", "requests_per_minute", "timeout_s", "max_retries", "max_tokens_key"}
)
# Settings that say how fast, how often and how long, or pretend it; they never enter a fingerprint.
EXECUTION_SETTINGS: Mapping[str, frozenset[str]] = {
    "transformers": frozenset({"batching"}),
    "scripted": frozenset(
        {
            "seconds_per_token", "seconds_per_batch", "load_s", "memory_bytes",
            "fail_to_load", "crash_on", "crash_times", "fault_dir", "hang_on", "hang_times",
        }
    ),
    "endpoint": _API_EXECUTION_SETTINGS,
    "server": _API_EXECUTION_SETTINGS | {"health", "start_timeout_s", "stop_timeout_s", "log_dir"},
}  # fmt: skip
# Settings that `identity: NAME` stands for: where the model is asked, or how its server is started.
NAMED_BY_IDENTITY: Mapping[str, frozenset[str]] = {
    "endpoint": frozenset({"base_url"}),
    "server": frozenset({"command", "env"}),
}


def text_settings(engine: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the text; a local file is replaced by its content's hash."""
    ignored = EXECUTION_SETTINGS.get(engine, frozenset())
    if settings.get("identity") is not None:
        ignored |= NAMED_BY_IDENTITY.get(engine, frozenset())
    return {key: _content(value) for key, value in settings.items() if key not in ignored}


def _content(value: object) -> object:
    if isinstance(value, str) and is_local_path(value) and Path(value).expanduser().is_file():
        return {"sha256": file_sha256(Path(value).expanduser())}
    return value
