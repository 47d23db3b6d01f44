"""An OpenAI-compatible API on 127.0.0.1, with a model of closed form and faults to order.

A token is a word with the space before it. The model continues any prompt with the prompt's own words, from the first
on, again and again. The log-probability of a token at place k is -(k + its length) / 100; the first token has none.
The likeliest token is always the same. Token id 7 is the word "w7".
"""

import json
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

MAX_STOPS = 4
LIKELIEST = " best"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens instead of an answer: a status with a body, or no answer until the API closes."""

    status: int = 500
    body: str = '{"error": {"message": "out of order"}}'
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    hangs: bool = False


Scored = tuple[list[str], list[float | None]]


@dataclass(kw_only=True)
class Api:
    """What the API does, and what it was asked. Tests change it while it runs.

    `scored` gives a prompt's tokens and their log-probabilities. `faults` befall the requests to come, one each.
    `broken` says for a body which fault befalls it, whenever it comes. With `steps`, a stream sends one event for each
    release of it; `left` counts the streams whose client went away before their end.
    """

    base_url: str = ""
    models: Sequence[str] | None = ("tiny",)
    key: str | None = None
    gives_usage: bool = True
    streams: bool = True
    knows_stream_options: bool = True
    likelihoods: Sequence[str] = ("echo", "zero", "prompt_logprobs")
    logprobs: Literal["given", "refused", "ignored"] = "given"
    scored: Callable[[str], Scored] = lambda prompt: closed_form(prompt)
    context_length: int = 1000
    finish_reason: str | None = None
    faults: deque[Fault] = field(default_factory=deque)
    broken: Callable[[dict[str, Any]], Fault | None] = lambda body: None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    steps: threading.Semaphore | None = None
    left: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    num_at_once: int = 0
    most_at_once: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def words(text: str) -> list[str]:
    """The tokens of the closed-form model."""
    return re.findall(r"\s*\S+", text)


def logprob(place: int, token: str) -> float:
    """The log-probability of the closed-form model; the place counts from 0, and the first token has none."""
    return -(place + len(token)) / 100


def closed_form(prompt: str) -> Scored:
    """The tokens of `prompt` and their log-probabilities."""
    tokens = words(prompt)
    return tokens, [None if place == 0 else logprob(place, token) for place, token in enumerate(tokens)]


def drawn(prompt: str, num: int) -> list[str]:
    """What the closed-form model continues `prompt` with."""
    own = prompt.split()
    return [" " + own[place % len(own)] for place in range(num)]


@contextmanager
def serving(api: Api, port: int = 0) -> Iterator[Api]:
    """Run the API in threads of this process, on a free port where none is named."""
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"api": api}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    api.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield api
    finally:
        api.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "code": code}}


class _Handler(BaseHTTPRequestHandler):
    api: Api

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, "{}")
        else:
            self._guarded(self._list_models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.api.lock:
            self.api.bodies.append(body)
            fault = self.api.faults.popleft() if self.api.faults else self.api.broken(body)
            self.api.num_at_once += 1
            self.api.most_at_once = max(self.api.most_at_once, self.api.num_at_once)
        try:
            if fault is None:
                self._guarded(lambda: self._complete(body))
            else:
                self._fail(fault)
        finally:
            with self.api.lock:
                self.api.num_at_once -= 1

    def _guarded(self, answer: Callable[[], None]) -> None:
        try:
            if self.api.key is not None and self.headers.get("Authorization") != f"Bearer {self.api.key}":
                raise _RefusedError(401, f"Incorrect API key: {self.headers.get('Authorization')}")
            answer()
        except _RefusedError as error:
            self._send(error.status, json.dumps(error.body))

    def _list_models(self) -> None:
        if self.api.models is None or self.path != "/v1/models":
            raise _RefusedError(404, "not found")
        self._send(200, json.dumps({"data": [{"id": name} for name in self.api.models]}))

    def _complete(self, body: dict[str, Any]) -> None:
        is_chat = {"/v1/chat/completions": True, "/v1/completions": False}.get(self.path)
        if is_chat is None:
            raise _RefusedError(404, "not found")
        if body["model"] not in (self.api.models or ("tiny",)):
            raise _RefusedError(404, f"The model `{body['model']}` does not exist", "model_not_found")
        reply = _reply(self.api, body, is_chat)
        if body.get("stream") and self.api.streams:
            events = _events(self.api, body, reply, is_chat)
            if self.api.steps is not None:
                self._send_slowly(events, self.api.steps)
            else:
                self._send(200, events, content_type="text/event-stream")
        else:
            self._send(200, json.dumps(reply))

    def _fail(self, fault: Fault) -> None:
        if fault.hangs:
            self.api.closed.wait()
        self._send(fault.status, fault.body, fault.headers, fault.content_type)

    def _send_slowly(self, events: str, steps: threading.Semaphore) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for event in events.split("\n\n"):
                while not steps.acquire(timeout=0.01):
                    # A client that sends no more makes its end readable.
                    if self.api.closed.is_set() or select.select([self.connection], [], [], 0)[0]:
                        raise OSError("the client has gone")
                self.wfile.write(f"{event}\n\n".encode())
        except OSError:
            self.api.left.release()

    def _send(
        self,
        status: int,
        body: str,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Type": content_type, **(headers or {})}.items():
                self.send_header(name, value)
            # "\udcff" in a body stands for the byte 0xff.
            encoded = body.encode(errors="surrogateescape")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)
        except OSError:
            # The client has gone, which some tests are about.
            self.close_connection = True


def templated(body: dict[str, Any]) -> str:
    """A chat template: the messages, and the assistant's turn opened, or its message left open."""
    turns = [f" [{message['role']}] {message['content']}" for message in body["messages"]]
    return "".join(turns) + ("" if body.get("continue_final_message") else " [assistant] ")


def _reply(api: Api, body: dict[str, Any], is_chat: bool) -> dict[str, Any]:
    prompt = templated(body) if is_chat else _spelled(body["prompt"])
    num = body.get("max_tokens", body.get("max_completion_tokens", 16))
    _check(api, body, prompt, num)
    tokens = drawn(prompt, num)
    text = "".join(tokens)
    cuts = [text.find(stop) for stop in body.get("stop", ()) if stop in text]
    reason = api.finish_reason or ("stop" if cuts else "length")
    text = text[: min(cuts, default=len(text))]
    is_echoed = bool(body.get("echo")) and "echo" in api.likelihoods
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
    if is_chat:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = prompt + text if is_echoed else text
    if "logprobs" in body and api.logprobs == "given":
        known, values = api.scored(prompt) if is_echoed else ([], [])
        first = len(words(prompt))
        found: list[float | None] = [logprob(first + place, token) for place, token in enumerate(tokens)]
        choice["logprobs"] = _logprobs(known + tokens, values + found, _num_alternatives(body), is_chat)
    if "prompt_logprobs" in body and "prompt_logprobs" in api.likelihoods:
        choice["prompt_logprobs"] = _by_token_id(*api.scored(prompt))
    usage = {"prompt_tokens": len(words(prompt)), "completion_tokens": len(tokens)}
    return {"choices": [choice]} | ({"usage": usage} if api.gives_usage else {})


def _spelled(prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else " ".join(f"w{token}" for token in prompt)


def _num_alternatives(body: dict[str, Any]) -> int:
    return int(body.get("top_logprobs", 0) if body["logprobs"] is True else body["logprobs"])


def _logprobs(tokens: list[str], values: list[float | None], num: int, is_chat: bool) -> dict[str, Any]:
    """The log-probabilities of `tokens` and, if `num` is not 0, of the likeliest token beside each."""
    tops = [
        {LIKELIEST: -0.001, token: value} if num and value is not None else {}
        for token, value in _pairs(tokens, values)
    ]
    if not is_chat:
        offsets = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": [top or None for top in tops],
            "text_offset": offsets,
        }
    return {
        "content": [
            _entry(token, value) | {"top_logprobs": [_entry(*one) for one in top.items()]}
            for (token, value), top in zip(_pairs(tokens, values), tops, strict=True)
        ]
    }


def _pairs(tokens: list[str], values: list[float | None]) -> list[tuple[str, float | None]]:
    return list(zip(tokens, values, strict=True))


def _entry(token: str, value: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


def _check(api: Api, body: dict[str, Any], prompt: str, num: int) -> None:
    if len(body.get("stop", ())) > MAX_STOPS:
        raise _RefusedError(400, "too many stop sequences")
    if "logprobs" in body and api.logprobs == "refused":
        raise _RefusedError(400, "logprobs are not supported by this model")
    if body.get("stream_options") and not api.knows_stream_options:
        raise _RefusedError(422, "Unexpected field: stream_options")
    if body.get("echo") and num == 0 and "zero" not in api.likelihoods:
        raise _RefusedError(400, "max_tokens must be at least 1")
    if len(words(prompt)) + num > api.context_length:
        message = f"This model's maximum context length is {api.context_length} tokens."
        raise _RefusedError(400, message, "context_length_exceeded")


def _by_token_id(tokens: list[str], values: list[float | None]) -> list[Any]:
    """As vLLM does: the prompt's own token first, then the likeliest one."""
    return [
        value
        and {
            str(place): {"logprob": value, "rank": 2, "decoded_token": token},
            "999": {"logprob": -0.001, "rank": 1, "decoded_token": " best"},
        }
        for place, (token, value) in enumerate(zip(tokens, values, strict=True))
    ]


def _events(api: Api, body: dict[str, Any], reply: dict[str, Any], is_chat: bool) -> str:
    choice = reply["choices"][0]
    text = choice["message"]["content"] if is_chat else choice["text"]
    pieces = [{"role": "assistant", "content": ""}] if is_chat else []
    pieces += [{"content" if is_chat else "text": piece} for piece in words(text)]
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "finish_reason": None} | ({"delta": piece} if is_chat else piece)]}
        for piece in pieces
    ]
    if given := choice.get("logprobs"):
        for place, event in enumerate(events[is_chat:]):
            event["choices"][0]["logprobs"] = {name: entries[place : place + 1] for name, entries in given.items()}
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if "usage" in reply and body.get("stream_options", {}).get("include_usage"):
        events.append({"choices": [], "usage": reply["usage"]})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
