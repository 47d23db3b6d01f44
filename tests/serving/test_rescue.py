"""Calls whose ingress died under them, at an ASGI application that returns early, as Serve's proxy does."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from moe_ray.serving import rescue
from moe_ray.serving.openai.schema import PATHS
from moe_ray.serving.rescue import CallRescue
from tests.serving.scenes import scope

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
STREAM = {**START, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]}
HELLO = {"type": "http.response.body", "body": b"data: hello\n\n", "more_body": True}
END = {"type": "http.response.body", "body": b"ok"}
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Proxy:
    """An application that sends `answers`, one list for each try, whatever it was asked; `bodies` is what it read."""

    def __init__(self, *answers: list[dict[str, Any]], reads: bool = True) -> None:
        self.answers = list(answers)
        self.reads = reads
        self.bodies: list[bytes] = []

    async def __call__(self, _scope: Any, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        body, more = b"", self.reads
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        for message in self.answers.pop(0):
            await send(message)


def served(proxy: Proxy, body: Any, *, path: str = PATHS["chat"], leaves: bool = False) -> list[dict[str, Any]]:
    """Send a request in two messages; return the messages of the answer."""
    text = json.dumps(body).encode()
    to_send = [
        {"type": "http.request", "body": text[:3], "more_body": True},
        {"type": "http.request", "body": text[3:], "more_body": False},
    ]
    if leaves:
        to_send = [{"type": "http.disconnect"}]
    got: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return to_send.pop(0)

    async def send(message: Any) -> None:
        got.append(message)

    app: Any = proxy
    asyncio.run(CallRescue(app)(scope(path, {}), receive, send))
    return got


def error_of(messages: list[dict[str, Any]]) -> tuple[int, dict[str, Any], dict[bytes, bytes]]:
    start, body = messages
    return start["status"], json.loads(body["body"])["error"], dict(start["headers"])


def test_a_call_without_a_status_is_tried_once_more_with_the_same_body() -> None:
    proxy = Proxy([], [START, END])
    assert served(proxy, {"n": 1}) == [START, END]
    assert proxy.bodies == [b'{"n": 1}'] * 2


def test_a_call_that_ends_two_processes_is_refused_and_is_not_to_be_sent_again() -> None:
    proxy = Proxy([], [])
    status, error, headers = error_of(served(proxy, {"n": 1}))
    assert (status, error["code"], headers[b"x-should-retry"]) == (500, "ingress_died", b"false")


def test_a_stream_without_a_status_is_refused_and_may_be_sent_again() -> None:
    proxy = Proxy([])
    status, error, headers = error_of(served(proxy, {"stream": True}))
    assert (status, error["code"], headers[b"retry-after"]) == (503, "ingress_died", b"1")
    assert len(proxy.bodies) == 1


@pytest.mark.parametrize(("endpoint", "is_done"), [("chat", True), ("completions", True), ("responses", False)])
def test_a_stream_that_breaks_off_ends_with_an_error_event(endpoint: Any, is_done: bool) -> None:
    start, hello, last = served(Proxy([STREAM, HELLO]), {"stream": True}, path=PATHS[endpoint])
    assert (start, hello) == (STREAM, HELLO)
    event, _, done = last["body"].decode().removesuffix("\n\n").partition("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "ingress_died"
    assert done == ("data: [DONE]" if is_done else "")
    assert not last["more_body"]


def test_whole_answers_pass_as_they_are() -> None:
    answers: list[list[dict[str, Any]]] = [[START, END], [STREAM, HELLO, END]]
    for answer in answers:
        assert served(Proxy(answer), {}) == answer


def test_a_client_that_left_gets_nothing_and_its_call_is_not_repeated() -> None:
    proxy = Proxy([])
    assert served(proxy, {}, leaves=True) == []
    assert len(proxy.bodies) == 1


def test_a_large_body_is_not_kept_and_its_call_may_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "MAX_KEPT_BYTES", 3)
    proxy = Proxy([])
    assert error_of(served(proxy, {"n": 1}))[0] == 503
    assert len(proxy.bodies) == 1


@pytest.mark.parametrize("path", ["/v1/models", "/other"])
def test_other_paths_are_left_alone(path: str) -> None:
    assert served(Proxy([], reads=False), {}, path=path) == []


def test_the_proxies_environment_names_the_function() -> None:
    (name,) = rescue.PROXY_ENVIRONMENT.values()
    assert name == "moe_ray.serving.rescue:middlewares"
    (middleware,) = rescue.middlewares()
    assert middleware.cls is CallRescue  # type: ignore[comparison-overlap]
