"""Recording of calls as Parquet files, which `moe-ray evaluate` reads as the data of a domain."""

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe_ray.characters import whole_characters
from moe_ray.errors import ConfigError
from moe_ray.files import write_atomically
from moe_ray.prompts.messages import Prompt
from moe_ray.serving.backend import Ticket
from moe_ray.serving.outcome import ChoiceText

LOGGER = logging.getLogger(__name__)
MAX_ROWS = 1000
MAX_AGE_S = 60.0
# A file is due at this size, and what comes beyond the second while files cannot be written is dropped.
MAX_FILE_BYTES = 16 << 20
MAX_PENDING_BYTES = 64 << 20
ROW_BYTES = 512
CLOSE_PATIENCE_S = 4.0

RECORD_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "request_id": pa.string(),
        "choice": pa.int32(),
        "recorded_at": pa.timestamp("us", tz="UTC"),
        "endpoint": pa.string(),
        "requested": pa.string(),
        "model": pa.string(),
        "domain": pa.string(),
        "confidence": pa.float64(),
        "out_of_domain": pa.bool_(),
        "query": pa.string(),
        "num_user_turns": pa.int32(),
        "messages": pa.string(),
        "answer": pa.string(),
        "reasoning": pa.string(),
        "finish_reason": pa.string(),
    }
)


def require_writable(directory: Path) -> None:
    """Make the folder, for this user alone, where it is missing. Raises `ConfigError` where nothing can be written."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / f".probe-{secrets.token_hex(8)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", where=f"serving.record_dir: {directory}", remedy="name another"
        ) from error


def rows_of(ticket: Ticket, texts: Sequence[ChoiceText]) -> list[dict[str, Any]]:
    """Return a row for each answer of a finished call. Prompts that are token ids have no text, and no row."""
    call, verdict = ticket.call, ticket.verdict
    assert verdict is not None
    probabilities = verdict.probabilities
    shared = {
        "request_id": ticket.id,
        "recorded_at": datetime.now(UTC),
        "endpoint": call.endpoint,
        "requested": verdict.requested,
        "model": verdict.expert,
        "domain": max(probabilities, key=lambda name: probabilities[name]) if probabilities else None,
        "confidence": verdict.confidence,
        "out_of_domain": verdict.out_of_domain,
    }
    return [
        {
            **shared,
            "id": secrets.token_hex(12),
            "choice": index,
            **_prompt_columns(call.prompts[index // call.n]),
            "answer": whole_characters("".join(text.answer)),
            "reasoning": whole_characters("".join(text.reasoning)) or None,
            "finish_reason": text.finish_reason,
        }
        for index, text in enumerate(texts)
        if not call.prompts[index // call.n].token_ids
    ]


def _prompt_columns(prompt: Prompt) -> dict[str, Any]:
    user = [message.content for message in prompt.messages if message.role == "user"]
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return {
        "query": "\n".join(user),
        "num_user_turns": len(user),
        "messages": json.dumps(messages, ensure_ascii=False),
    }


class Recorder:
    """Writes rows in a thread of its own. A file is whole or not there, and only its owner may read it.

    A file is due after `max_rows`, after `max_age_s`, and at the end. Memory is bounded: rows that come while
    `MAX_PENDING_BYTES` wait for the disk are dropped and counted, as are those of a file that cannot be written.

    Args:
        writer: names this process in the files' names.
    """

    def __init__(self, directory: Path, writer: str, *, max_rows: int = MAX_ROWS, max_age_s: float = MAX_AGE_S) -> None:
        require_writable(directory)
        self._num_dropped = 0
        self._directory = directory
        self._writer = "".join(letter if letter.isalnum() else "-" for letter in writer)[-40:]
        self._max_rows, self._max_age_s = max_rows, max_age_s
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = self._bytes_being_written = 0
        self._oldest = 0.0
        self._num_files = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take rows of a finished call; never waits for the disk."""
        size = sum(ROW_BYTES + sum(len(value) for value in row.values() if isinstance(value, str)) for row in rows)
        with self._changed:
            if self._closing or self._num_bytes + self._bytes_being_written + size > MAX_PENDING_BYTES:
                self._num_dropped += len(rows)
                return
            if not self._rows:
                self._oldest = time.monotonic()
            self._rows.extend(rows)
            self._num_bytes += size
            self._changed.notify_all()

    def take_dropped(self) -> int:
        """Return how many rows were lost since the last call of this."""
        with self._changed:
            num, self._num_dropped = self._num_dropped, 0
        return num

    def close(self) -> None:
        """Write what is left. Waits for a few seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_PATIENCE_S)

    def _run(self) -> None:
        for rows in self._due():
            try:
                self._write(rows)
            except (OSError, pa.ArrowException) as error:
                with self._changed:
                    self._num_dropped += len(rows)
                LOGGER.error("%d recorded answers are lost: %s", len(rows), error)

    def _due(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each file when it is due; end when the recorder is closed."""
        while True:
            with self._changed:
                self._bytes_being_written = 0
                while not self._is_due():
                    wait_s = self._oldest + self._max_age_s - time.monotonic() if self._rows else None
                    self._changed.wait(wait_s)
                rows, self._rows = self._rows, []
                self._num_bytes, self._bytes_being_written = 0, self._num_bytes
            if rows:
                yield rows
            else:
                return

    def _is_due(self) -> bool:
        if self._closing:
            return True
        is_old = bool(self._rows) and time.monotonic() >= self._oldest + self._max_age_s
        return is_old or len(self._rows) >= self._max_rows or self._num_bytes >= MAX_FILE_BYTES

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._num_files += 1
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = self._directory / f"{stamp}-{self._writer}-{self._num_files:06}.parquet"
        table = pa.Table.from_pylist(rows, RECORD_SCHEMA)

        def write(temporary: Path) -> None:
            temporary.touch(mode=0o600)
            pq.write_table(table, temporary, compression="zstd")

        write_atomically(path, write)
