"""A fake of the served API over real HTTP: the chat page, a list of models, and scripted streams.

A stream waits for events that the test sets, never for a clock. TIMEOUT_S only ends a test that hangs.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from moe_ray.serving.page import PAGE_HEADERS, page_files

TIMEOUT_S = 60.0
UNTIL_CLOSED: Literal["until closed"] = "until closed"
Chunk = Mapping[str, Any]
Step = Chunk | threading.Event | Literal["until closed"]


def model(name: str, role: str = "expert", *, status: str = "loaded", domains: Sequence[str] = ()) -> dict[str, Any]:
    about = {"role": role, "domains": list(domains)}
    return {"id": name, "object": "model", "status": {"value": status}, "moe_ray": about}


def default_models() -> list[dict[str, Any]]:
    return [
        {"id": "auto", "object": "model"},
        model("biomedical-expert", domains=["biomedical"]),
        model("legal-expert", domains=["legal"], status="unloaded"),
        model("code-expert", domains=["code"]),
        model("general-7b", "baseline"),
    ]


def verdict(expert: str = "biomedical-expert", *, requested: str = "auto", **others: Any) -> dict[str, Any]:
    """The object `moe_ray` of a response; `others` are the fields that differ from a call that was not routed."""
    found: dict[str, Any] = {"requested": requested, "expert": expert, "probabilities": {}, "confidence": None}
    found |= {"out_of_domain": None, "fell_back": False, "pinned": None}
    return found | {"router_ms": 0.0, "queue_ms": 0.0, "swap_ms": 0.0} | others


def text(content: str, **others: Any) -> Chunk:
    """A chunk of the answer's text."""
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}], **others}


def thoughts(content: str) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"reasoning_content": content}, "finish_reason": None}]}


def end(*, reason: str = "stop", num_prompt: int = 20, num_completion: int = 80, **others: Any) -> list[Chunk]:
    """The last two chunks: the finish reason, and the usage."""
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_completion}
    return [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **others},
        {"choices": [], "usage": usage},
    ]


@dataclass
class Reply:
    """An answer of the API: a stream of `steps`, or the error `error` with status `status`.

    A step is a chunk to send, an event to wait for, or UNTIL_CLOSED, which waits until the client has hung up and
    then sets `is_closed`. Without `is_complete` the stream ends with no `[DONE]`.
    """

    steps: Sequence[Step] = ()
    status: int = 200
    error: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_complete: bool = True
    is_closed: threading.Event = field(default_factory=threading.Event)


@dataclass
class Received:
    """A request for a chat."""

    body: dict[str, Any]
    headers: dict[str, str]


class FakeApi:
    """What the server says, and what it has heard. `reply` maps the body of a request to the answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.models = default_models()
        self.key: str | None = None
        self.reply: Callable[[dict[str, Any]], Reply] = lambda body: Reply(steps=[text("Hello."), *end()])
        self.received: queue.Queue[Received] = queue.Queue()
        self.num_polls = 0

    def next_request(self) -> Received:
        return self.received.get(timeout=TIMEOUT_S)


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the output of the tests clean."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.api.num_polls += 1
            if self._may_pass():
                self._send_json(200, {"object": "list", "data": self.api.models})
        elif self.path in page_files():
            content, content_type = page_files()[self.path]
            self._send(200, content, {"Content-Type": content_type, **PAGE_HEADERS})
        else:
            self._send_json(404, _error("There is no such path."))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may_pass():
            return
        self.api.received.put(Received(body, {name.lower(): value for name, value in self.headers.items()}))
        reply = self.api.reply(body)
        if reply.error is not None:
            self._send_json(reply.status, _error(reply.error), reply.headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._stream(reply)

    def _stream(self, reply: Reply) -> None:
        for step in reply.steps:
            if isinstance(step, threading.Event):
                assert step.wait(TIMEOUT_S)
            elif step == UNTIL_CLOSED:
                self.connection.settimeout(TIMEOUT_S)
                assert self.connection.recv(1) == b""
                reply.is_closed.set()
                return
            else:
                self._send_event(json.dumps(step))
        if reply.is_complete:
            self._send_event("[DONE]")

    def _send_event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _may_pass(self) -> bool:
        if self.api.key is None or self.headers.get("Authorization") == f"Bearer {self.api.key}":
            return True
        self._send_json(401, _error("The API key is wrong."))
        return False

    def _send_json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


@contextmanager
def served_api() -> Iterator[FakeApi]:
    """A server on a free port of this machine; ended on the way out."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.api = FakeApi(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Handler.api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
