"""Parse replies of an OpenAI-compatible API: one JSON object, or a stream of events.

Replies are untrusted: each becomes an answer or a `BrokenReplyError`.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moe_ray.characters import whole_characters
from moe_ray.engines.endpoint.logprobs import Entries, read_logprobs
from moe_ray.errors import EngineLostError

MAX_MESSAGE_CHARACTERS = 300
# Far above any answer with its log-probabilities; a reply without an end must not fill the memory.
MAX_REPLY_BYTES = 64 << 20
MAX_TOKEN_COUNT = 2**31 - 1
EVENT = b"data:"
END_OF_EVENTS = "[DONE]"

_LINE_END = re.compile(rb"[\r\n]")


class BrokenReplyError(Exception):
    """A reply that is incomplete or violates the API. `status` is the error code in its body, if there is one."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class RequestRefusedError(Exception):
    """The API refused the request; a retry would not help."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message if status is None else f"{status}: {message}")
        self.status = status


class UnansweredError(EngineLostError):
    """All tries of a request failed. `status` is the last try's, None where there was no answer at all.

    `is_reply` says that the last try brought a reply, but one that cannot be read.
    """

    def __init__(self, message: str, status: int | None = None, *, is_reply: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.is_reply = is_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply. Times are in seconds from the start of its try; token counts are None where unknown.

    `payload` is the JSON; of a stream, its last object that named a usage. `reasoning` is None where the API does not
    separate it from the text. `logprobs` is empty where the reply has none that can be read.
    """

    text: str
    finish_reason: str | None
    num_prompt_tokens: int | None
    num_completion_tokens: int | None
    num_reasoning_tokens: int | None
    time_to_first_token_s: float | None
    total_s: float
    payload: dict[str, Any]
    reasoning: str | None = None
    logprobs: Entries = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyPiece:
    """Text of a reply, whole or a part of it, the reasoning that the API separates from it, and the log-probabilities.

    It is false if it holds nothing.
    """

    text: str = ""
    reasoning: str = ""
    logprobs: Entries = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.logprobs)


@dataclass(slots=True, kw_only=True)
class _Growing:
    pieces: list[ReplyPiece] = field(default_factory=list)
    finish_reason: str | None = None
    first_s: float | None = None
    last: dict[str, Any] = field(default_factory=dict)


class ReplyReader:
    """Reads one reply, JSON or a stream of events, from its bytes as they come.

    Args:
        is_stream: the reply is a stream of events.
        start_s: when the try began, on the performance counter.
        on_piece: called with each piece.
    """

    def __init__(
        self, *, is_stream: bool, start_s: float, on_piece: Callable[[ReplyPiece], None] | None = None
    ) -> None:
        self._is_stream = is_stream
        self._start_s = start_s
        self._on_piece = on_piece
        self._growing = _Growing()
        self._pending: list[bytes] = []
        self._num_bytes = 0
        self._is_over = False

    def feed(self, data: bytes) -> bool:
        """Add bytes; return whether the reply is over. Raises `BrokenReplyError`."""
        self._num_bytes += len(data)
        if self._num_bytes > MAX_REPLY_BYTES:
            raise BrokenReplyError(f"the reply is larger than {MAX_REPLY_BYTES >> 20} MiB")
        if not self._is_stream:
            self._pending.append(data)
            return False
        # Other characters that end a line elsewhere (U+2028, U+0085) do not end one here.
        *whole, rest = _LINE_END.split(data)
        if whole:
            for line in (b"".join([*self._pending, whole[0]]), *whole[1:]):
                self._read_line(line)
            self._pending = []
        self._pending.append(rest)
        return self._is_over

    def reply(self) -> Reply:
        """Return the reply after its last bytes. Raises `BrokenReplyError` when it is not whole."""
        body = b"".join(self._pending)
        if self._is_stream:
            self._read_line(body)
            growing = self._growing
            if not self._is_over and growing.finish_reason is None:
                raise BrokenReplyError("the stream broke off")
            return _reply(growing.pieces, growing.finish_reason, growing.last, growing.first_s, self._start_s)
        payload = _object(body.decode("utf-8", errors="replace"))
        _refuse_error(payload)
        choice = _first_choice(payload)
        if choice is None:
            raise BrokenReplyError("the reply holds no choices")
        self._emit(piece := _piece(choice))
        return _reply([piece], _finish_reason(choice), payload, None, self._start_s)

    def _read_line(self, line: bytes) -> None:
        if self._is_over or not line.startswith(EVENT):
            return
        data = line.removeprefix(EVENT).strip().decode("utf-8", errors="replace")
        if data == END_OF_EVENTS:
            self._is_over = True
            return
        num_known = len(self._growing.pieces)
        _take(self._growing, _object(data), time.perf_counter() - self._start_s)
        for piece in self._growing.pieces[num_known:]:
            self._emit(piece)

    def _emit(self, piece: ReplyPiece) -> None:
        if self._on_piece is not None:
            self._on_piece(piece)


def _take(growing: _Growing, event: dict[str, Any], elapsed_s: float) -> None:
    _refuse_error(event)
    if event.get("usage"):
        growing.last = event
    choice = _first_choice(event)
    if choice is None:
        return
    piece = _piece(choice)
    if piece:
        growing.first_s = elapsed_s if growing.first_s is None else growing.first_s
        growing.pieces.append(piece)
    growing.finish_reason = _finish_reason(choice) or growing.finish_reason


def _reply(
    pieces: list[ReplyPiece], reason: str | None, payload: dict[str, Any], first_s: float | None, start_s: float
) -> Reply:
    usage = payload.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        text="".join(piece.text for piece in pieces),
        reasoning="".join(piece.reasoning for piece in pieces) or None,
        logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
        finish_reason=reason,
        num_prompt_tokens=_count(counts.get("prompt_tokens")),
        num_completion_tokens=_count(counts.get("completion_tokens")),
        num_reasoning_tokens=_num_reasoning_tokens(counts),
        time_to_first_token_s=first_s,
        total_s=time.perf_counter() - start_s,
        payload=payload,
    )


def _count(value: object) -> int | None:
    """A number of tokens that can be one; None for anything else."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKEN_COUNT
    return value if is_count else None  # type: ignore[return-value]


def _finish_reason(choice: dict[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if reason is None or isinstance(reason, str) else _shortened(_dumped(reason))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenReplyError(f"the reply is not JSON: {_shortened(text)}") from error
    if not isinstance(value, dict):
        raise BrokenReplyError(f"the reply is not a JSON object: {_shortened(text)}")
    return value


def _refuse_error(payload: dict[str, Any]) -> None:
    """Raise the error in the body of an API that had already sent its status."""
    error = payload.get("error")
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        raise BrokenReplyError(_message_of(payload), code if isinstance(code, int) else None)


def _first_choice(payload: dict[str, Any]) -> dict[str, Any] | None:
    choices = payload.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _num_reasoning_tokens(usage: dict[str, Any]) -> int | None:
    details = usage.get("completion_tokens_details")
    number = details.get("reasoning_tokens") if isinstance(details, dict) else usage.get("reasoning_tokens")
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None


def _piece(choice: dict[str, Any]) -> ReplyPiece:
    """What a choice holds, whole or a piece of it: of a completion, of a chat's message, or of a chat's stream."""
    said, logprobs = choice.get("message") or choice.get("delta"), read_logprobs(choice)
    if not isinstance(said, dict):
        return ReplyPiece(text=_text(choice.get("text")), logprobs=logprobs)
    reasoning = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))
    content = said.get("content")
    if not isinstance(content, list):
        return ReplyPiece(text=_text(content), reasoning=reasoning, logprobs=logprobs)
    chunks = [chunk for chunk in content if isinstance(chunk, dict)]
    thought = "".join(_text(chunk.get("thinking")) for chunk in chunks)
    text = "".join(_text(chunk.get("text")) for chunk in chunks)
    return ReplyPiece(text=text, reasoning=reasoning or thought, logprobs=logprobs)


def _text(value: object) -> str:
    """A text as it is; of a list of text chunks, as some APIs send them, their texts; "" for anything else."""
    if isinstance(value, list):
        return "".join(_text(chunk.get("text")) for chunk in value if isinstance(chunk, dict))
    return value if isinstance(value, str) else ""


def error_message(body: str) -> str:
    """Return what an error's body says, in one line: its message and code where it is JSON, its beginning elsewhere."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return _shortened(body)
    return _message_of(value)


def _message_of(value: Any) -> str:
    error = value.get("error", value.get("detail", value)) if isinstance(value, dict) else value
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        code = error.get("code")
        return _shortened(error["message"] + (f" ({code})" if isinstance(code, str) else ""))
    return _shortened(error if isinstance(error, str) else _dumped(error))


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "nested too deeply to be shown"


def _shortened(text: str) -> str:
    # No more is split than is shown: a body may be large.
    line = " ".join(whole_characters(text[: 4 * MAX_MESSAGE_CHARACTERS]).split()) or "no reason given"
    return line if len(line) <= MAX_MESSAGE_CHARACTERS else f"{line[: MAX_MESSAGE_CHARACTERS - 3]}..."
