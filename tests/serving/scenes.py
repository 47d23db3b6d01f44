"""An API in memory, over a fake owner of slots, and clients of it that a test plays by hand."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from moe_ray.serving.access import AccessGate
from moe_ray.serving.api import make_api
from moe_ray.serving.backend import Backend
from moe_ray.serving.openai.schema import PATHS
from tests.serving.fakes import FakeOwner, FakeReplica, backend_of, settled, system
from tests.serving.openai.requests import PLAIN

CHAT = PATHS["chat"]


class Scene:
    """An API in memory. `owner` stands for the slots, `backend` is real."""

    def __init__(self, *, keys: tuple[bytes, ...] = (), has_router: bool = True, **options: Any) -> None:
        self.owner = FakeOwner(FakeReplica())
        self.backend: Backend = backend_of(self.owner, system(**options), has_router=has_router)
        self.backend.status = self.owner.status()
        self.app: Any = make_api(self.backend, AccessGate(keys, ()), _nothing)
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000")

    async def chat(self, model: str = "law", **others: Any) -> httpx2.Response:
        headers = others.pop("headers", None)
        body = {"model": model, "messages": [{"role": "user", "content": "law of leases"}], **others}
        return await self.client.post(CHAT, json=body, headers=headers)

    def statuses(self) -> dict[str, float]:
        """Requests counted, by their status."""
        return {
            dict(labels)["status"]: number
            for (name, labels), number in self.backend.metrics.counts.items()
            if name == "moe_ray_requests_total"
        }


@asynccontextmanager
async def _nothing(_app: Any) -> AsyncIterator[None]:
    yield


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]], **options: Any) -> Scene:
    async def run() -> Scene:
        made = Scene(**options)
        await scene(made)
        await settled()
        return made

    return asyncio.run(run())


def require_error(response: httpx2.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Fail unless the response is an error in OpenAI's shape; return it."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["code"] == code
    return error


def scope(path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    named = {"host": "localhost", **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }


class Connection:
    """A client that sends a chat, and leaves when `leaves` is set; `got` is what it was sent."""

    def __init__(self, **fields: Any) -> None:
        body = json.dumps({**PLAIN["chat"], **fields}).encode()
        self.leaves = asyncio.Event()
        self.got: list[dict[str, Any]] = []
        self.has_got_text = asyncio.Event()
        self.to_send = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive(self) -> dict[str, Any]:
        if self.to_send:
            return self.to_send.pop()
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.got.append(message)
        if b"Hello" in message.get("body", b""):
            self.has_got_text.set()

    def call(self, app: Any) -> "asyncio.Task[None]":
        headers = {"content-type": "application/json", "x-request-disconnect-disabled": "?1"}
        task: asyncio.Task[None] = asyncio.ensure_future(app(scope(CHAT, headers), self.receive, self.send))
        return task
