"""A conversation with the models behind an OpenAI-compatible endpoint: that of `moe-ray serve`, or another."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2

from moe_ray.errors import ConfigError, UserError, first_line
from moe_ray.execution import interruption
from moe_ray.files import parse_json, read_text
from moe_ray.prompts.messages import Message
from moe_ray.runs.chat import ChatEnd, ChatError, ChatEvent, ChatPiece, ChatVerdict
from moe_ray.serving.access import LOOPBACK
from moe_ray.serving.calls import AUTO, RoutingVerdict

CONNECT_TIMEOUT_S = 10.0
# Longer than a request may take at a server (serving.request_timeout_s), most of which may be a wait in its queue.
READ_TIMEOUT_S = 900.0
MAX_LINE_BYTES = 16 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_EVENT, _DONE = b"data:", b"[DONE]"


def read_key(path: Path) -> str:
    """Return the first key of a file of keys, one a line; `#` begins a comment. Raises `ConfigError` without one."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {first_line(error)}", where=f"--api-key-file {path}") from error
    key = next((line for line in lines if line and not line.startswith("#")), "")
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError("holds no key", where=f"--api-key-file {path}", remedy="write the key on a line of its own")
    return key


class RemoteChat:
    """Implements `ChatModels` with the API at `url`. The constructor asks for the names of the models.

    Raises `UserError` where nothing answers there, or not as such an API does.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        self._where = f"--url {url}"
        try:
            parsed = httpx2.URL(f"{base}/v1/")
        except (httpx2.InvalidURL, ValueError) as error:
            raise ConfigError(f"not a URL: {first_line(error)}", where=self._where) from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError("not a URL", where=self._where, remedy="write http://HOST:PORT")
        self._http = httpx2.Client(
            base_url=parsed,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=parsed.host not in LOOPBACK,
        )
        try:
            self._names = self._listed()
        except BaseException:
            self._http.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """See `ChatModels`."""
        return self._names

    def answer(self, messages: Sequence[Message], model: str) -> Iterator[ChatEvent]:
        """Ask, and pass on what the server streams; see `ChatModels.answer`."""
        body = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            with self._http.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise ChatError(_reason(response))
                yield from _events(_payloads(response))
        except httpx2.HTTPError as error:
            raise ChatError(f"the server does not answer: {first_line(error)}") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _listed(self) -> tuple[str, ...]:
        try:
            response = self._http.get("models", timeout=CONNECT_TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise UserError(
                f"nothing answers there: {first_line(error)}",
                where=self._where,
                remedy="start one with moe-ray serve, or name another",
            ) from error
        if response.status_code in (401, 403):
            raise UserError(_reason(response), where=self._where, remedy="name a file with the key: --api-key-file")
        listed = _object(response.content).get("data") if response.status_code == 200 else None
        entries = listed if isinstance(listed, list) else []
        names = tuple(str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry)
        if not names:
            raise UserError(
                f"no list of models at {self._http.base_url}models (status {response.status_code})",
                where=self._where,
                remedy="name the address of an OpenAI-compatible server",
            )
        return tuple(sorted(names, key=lambda name: name != AUTO))


def _payloads(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream, until `[DONE]`. Raises `ChatError` for one that breaks off."""
    pending = b""
    for data in response.iter_bytes():
        interruption.check()
        *lines, pending = _LINE_END.split(pending + data)
        if len(pending) > MAX_LINE_BYTES:
            raise ChatError("the server sends a line without end")
        for line in lines:
            content = line.removeprefix(_EVENT).strip()
            if line.startswith(_EVENT) and content == _DONE:
                return
            if line.startswith(_EVENT):
                yield _object(content)
    raise ChatError("the stream broke off")


def _events(payloads: Iterator[dict[str, Any]]) -> Iterator[ChatEvent]:
    verdict, reason, num_tokens = None, None, None
    for payload in payloads:
        if "error" in payload:
            raise ChatError(_message(payload) or "the server failed")
        if verdict is None and (verdict := _verdict(payload.get("moe_ray"))) is not None:
            yield ChatVerdict(verdict)
        usage = payload.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            num_tokens = usage["completion_tokens"]
        choices = payload.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        delta = choice.get("delta")
        if isinstance(delta, dict) and (piece := ChatPiece(_text(delta, "content"), _reasoning(delta))) != ChatPiece():
            yield piece
        reason = choice.get("finish_reason") or reason
    yield ChatEnd(str(reason or "stop"), num_tokens)


def _verdict(fields: object) -> RoutingVerdict | None:
    """The object `moe_ray`; None where a server has none, or another."""
    if not isinstance(fields, dict) or not isinstance(fields.get("expert"), str):
        return None
    probabilities = fields.get("probabilities")
    found = {
        str(name): float(value)
        for name, value in (probabilities.items() if isinstance(probabilities, dict) else ())
        if isinstance(value, int | float)
    }
    return RoutingVerdict(
        requested=str(fields.get("requested", AUTO)),
        expert=fields["expert"],
        probabilities=found,
        confidence=max(found.values(), default=None),
        out_of_domain=fields.get("out_of_domain") is True,
        fell_back=fields.get("fell_back") is True,
        pinned=_text(fields, "pinned") or None,
    )


def _text(delta: dict[str, Any], key: str) -> str:
    value = delta.get(key)
    return value if isinstance(value, str) else ""


def _reasoning(delta: dict[str, Any]) -> str:
    return _text(delta, "reasoning_content") or _text(delta, "reasoning")


def _reason(response: httpx2.Response) -> str:
    with contextlib.suppress(ChatError):
        said = _message(_object(response.content))
        after = response.headers.get("retry-after")
        if said:
            return f"{said} (try again in {after} s)" if after else said
    return f"the server answers with status {response.status_code}"


def _message(payload: dict[str, Any]) -> str:
    error = payload.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    return said if isinstance(said, str) else ""


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = parse_json(data)
    except ValueError as error:
        raise ChatError("the server sends something else than JSON") from error
    if not isinstance(found, dict):
        raise ChatError("the server sends something else than objects")
    return found
