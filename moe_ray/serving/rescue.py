"""What a client gets whose ingress has died: a second try at another ingress, or an error in OpenAI's shape.

Serve's proxy drops the request of a replica that dies: without a status it sends 500 in plain text, and it cuts a
stream. `CallRescue` runs inside the proxy, around every call to one of the API's paths.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moe_ray.serving.calls import ApiError
from moe_ray.serving.failures import error_response
from moe_ray.serving.openai.events import DONE, event, json_text
from moe_ray.serving.openai.schema import PATHS

MAX_TRIES = 2
# A larger body is not kept for a second try.
MAX_KEPT_BYTES = 16 << 20
AGAIN_S = 1.0

PROXY_ENVIRONMENT: Mapping[str, str] = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:middlewares"}
"""For the processes of Serve's proxies: it makes them load `middlewares`."""


def middlewares() -> list[Middleware]:
    """Return what Serve's proxies are to put around their application."""
    return [Middleware(CallRescue)]


class CallRescue:
    """ASGI middleware that answers where `app` returns without a whole answer, though the client is still there.

    A call without a status is tried once more, unless it asks for a stream. A stream ends with an error event.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self._app(scope, receive, send)
            return
        body = _KeptBody(receive)
        answer = _WatchedAnswer(send, on_start=body.forget)
        for _ in range(MAX_TRIES):
            await self._app(dict(scope), body.receive, answer.send)
            if answer.has_started or body.has_client_left or not body.may_be_sent_again:
                break
            body.rewind()
        if not body.has_client_left and not answer.is_whole:
            await _end(answer, scope, is_final=not answer.has_started and body.may_be_sent_again)


class _KeptBody:
    """The messages of a request, which can be read again until the answer has begun."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []
        self._to_repeat: list[Message] = []
        self._num_bytes = 0
        self.has_client_left = False

    async def receive(self) -> Message:
        if self._to_repeat:
            return self._to_repeat.pop(0)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.has_client_left = True
        else:
            self._num_bytes += len(message.get("body", b""))
            if self._num_bytes <= MAX_KEPT_BYTES:
                self._read.append(message)
        return message

    @property
    def may_be_sent_again(self) -> bool:
        """Whether the body is at hand, and does not ask for a stream."""
        return self._num_bytes <= MAX_KEPT_BYTES and not _asks_for_stream(
            b"".join(message.get("body", b"") for message in self._read)
        )

    def rewind(self) -> None:
        self._to_repeat = list(self._read)

    def forget(self) -> None:
        self._read.clear()


class _WatchedAnswer:
    def __init__(self, send: Send, on_start: Callable[[], None]) -> None:
        self.pass_on = send
        self._on_start = on_start
        self.has_started = False
        self.is_event_stream = False
        self.is_whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            self._on_start()
            self.is_event_stream = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"]
            )
        elif not message.get("more_body", False):
            self.is_whole = True
        await self.pass_on(message)


_PATHS = frozenset(PATHS.values())


def _asks_for_stream(body: bytes) -> bool:
    try:
        asked: Any = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(asked, dict) and asked.get("stream") is True


async def _end(answer: _WatchedAnswer, scope: Scope, *, is_final: bool) -> None:
    """End an answer that broke off; `is_final` says that a further try of the client's would not help."""
    error = ApiError(
        500 if is_final else 503,
        "the server process of this call has ended",
        kind="server_error" if is_final else "service_unavailable",
        code="ingress_died",
        retry_after_s=None if is_final else AGAIN_S,
    )
    if not answer.has_started:
        await error_response(error)(scope, _nothing_more, answer.pass_on)
    elif answer.is_event_stream:
        last = event(json_text(error.body())) + (b"" if scope["path"] == PATHS["responses"] else DONE)
        await answer.pass_on({"type": "http.response.body", "body": last, "more_body": False})


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}
