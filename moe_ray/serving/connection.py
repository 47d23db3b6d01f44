"""A request whose client may leave: what is done for it ends then, whatever Ray Serve makes of it.

Serve cancels a request whose client has left, unless the client's header `x-request-disconnect-disabled` says not to.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from moe_ray.serving.calls import ApiError
from moe_ray.serving.failures import too_large

Result = TypeVar("Result")

CLIENT_LEFT = 499
_ENDING: set[asyncio.Future[None]] = set()
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def body_of(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes; a larger one is refused before all of it has come."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
    return b"".join(parts)


async def client_left(receive: Receive) -> None:
    """Return when the client has closed the connection. The body has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Awaitable[Result]) -> Result:
    """Return what `work` returns. If the client leaves before, `work` is cancelled, and `ApiError` raised."""
    task: asyncio.Future[Result] = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(client_left(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_LEFT, "the client has left", code="client_left")
        return task.result()
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.wait((task,))  # its own clean-up comes first


class EventStream(StreamingResponse):
    """A stream of server-sent events, which ends when its client leaves.

    `sources` are closed at the end, the outermost first, also where nothing was sent; then `on_end` is called.
    """

    def __init__(
        self,
        *sources: AsyncGenerator[Any],
        headers: Mapping[str, str],
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(sources[0], media_type="text/event-stream", headers={**STREAM_HEADERS, **headers})
        self.on_end = on_end
        self._sources = sources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - of ASGI
        """Send the events; see ASGI."""
        sending = asyncio.ensure_future(self.stream_response(send))
        watch = asyncio.ensure_future(client_left(receive))
        try:
            await asyncio.wait((sending, watch), return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not sending.cancelled():
                sending.result()
        finally:
            watch.cancel()
            ending = asyncio.ensure_future(self._end(sending))
            _ENDING.add(ending)
            ending.add_done_callback(_ENDING.discard)
            await asyncio.shield(ending)  # a second cancellation does not stop it

    async def _end(self, sending: "asyncio.Future[None]") -> None:
        sending.cancel()
        await asyncio.wait((sending,))
        try:
            for source in self._sources:
                await source.aclose()
        finally:
            self.on_end()
