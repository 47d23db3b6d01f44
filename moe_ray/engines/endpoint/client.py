"""HTTP client for model APIs: rate limiting, retries with backoff, response validation."""

import asyncio
import contextlib
import email.utils
import itertools
import random
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2

from moe_ray.engines.api_settings import ApiSettings
from moe_ray.engines.endpoint.replies import (
    BrokenReplyError,
    Reply,
    ReplyPiece,
    ReplyReader,
    RequestRefusedError,
    UnansweredError,
    error_message,
)

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
# An API that asks for a longer wait is treated as unavailable; the run can be resumed later.
LONGEST_RETRY_AFTER_S = 600.0
CONNECT_TIMEOUT_S = 10.0
RETRIED_STATUSES = frozenset({408, 409, 425, 429})
SERVER_ERROR = 500
MAX_ERROR_BYTES = 1 << 20
HIDDEN = "***"
GIVEN_UP = "given up, because another request was"

ResultT = TypeVar("ResultT")


class CallGroup:
    """Calls of one client that are cancelled together. After `stop`, further calls are refused.

    The client and calls outside the group are not affected.
    """

    def __init__(self) -> None:
        self._futures: set[Future[Any]] = set()
        self._is_stopped = False
        self._lock = threading.Lock()

    def run(self, start: Callable[[], Future[ResultT]]) -> ResultT:
        """Start a call and wait for its result. Raises `UnansweredError` when the group is stopped."""
        with self._lock:
            if self._is_stopped:
                raise UnansweredError(GIVEN_UP)
            future = start()
            self._futures.add(future)
        try:
            return future.result()
        except CancelledError as error:
            raise UnansweredError(GIVEN_UP) from error
        finally:
            with self._lock:
                self._futures.discard(future)

    def stop(self) -> None:
        """Cancel all calls of the group."""
        with self._lock:
            self._is_stopped = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()


class _TryAgainError(Exception):
    """One try failed with a transient error."""

    def __init__(
        self, reason: str, *, status: int | None = None, retry_after_s: float | None = None, is_reply: bool = False
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_reply = is_reply


class EndpointClient:
    """HTTP client of one API. Several threads may use it at once.

    All requests run as tasks in one thread of the client, so that a cancelled one closes its connection at once,
    whatever it was waiting for.

    Args:
        base_url: where the API is, without a slash at its end.
        settings: pace, patience and number of retries.
        key: sent as a bearer token; it never appears in an error.
        require_alive: called before a retry; raises when the server has ended.
        is_local: the API is on this machine; proxies from the environment are not used.
    """

    def __init__(
        self,
        base_url: str,
        settings: ApiSettings,
        key: str | None,
        *,
        require_alive: Callable[[], None] = lambda: None,
        is_local: bool = False,
    ) -> None:
        self.base_url = base_url
        self._settings = settings
        self._key = key
        self._require_alive = require_alive
        self._pace = _Pace(settings.requests_per_minute)
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(settings.timeout_s, connect=min(CONNECT_TIMEOUT_S, settings.timeout_s)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=settings.max_concurrent_requests),
            trust_env=not is_local,
        )
        self._state = threading.Lock()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint-client", daemon=True)
        self._thread.start()

    def post(self, path: str, body: dict[str, Any], group: CallGroup | None = None) -> Reply:
        """Return the reply to `body`. Raises `RequestRefusedError`, or `UnansweredError` when all tries failed."""
        return (group or CallGroup()).run(lambda: self.start(self.asked(path, body)))

    def get(self, path: str) -> Any:
        """Return the JSON at `path`, asked for once. Raises as `post` does."""
        return CallGroup().run(lambda: self.start(self._retried(path, lambda: self._try("GET", path, _read_json), 0)))

    async def asked(
        self, path: str, body: dict[str, Any], on_piece: Callable[[ReplyPiece], None] | None = None
    ) -> Reply:
        """Return the reply to `body`, within the client's thread; hand each piece of it to `on_piece`.

        Raises as `post` does. A reply that breaks after its first piece is not asked for again.
        """
        num_pieces = 0

        def count(piece: ReplyPiece) -> None:
            nonlocal num_pieces
            if on_piece is not None and piece:
                num_pieces += 1
                on_piece(piece)

        async def read(response: httpx2.Response, start_s: float) -> Reply:
            return await self._read_reply(response, start_s, count)

        return await self._retried(
            path,
            lambda: self._try("POST", path, read, body),
            self._settings.max_retries,
            may_retry=lambda: num_pieces == 0,
        )

    def start(self, work: Coroutine[Any, Any, ResultT]) -> Future[ResultT]:
        """Run `work` as a task in the client's thread. Raises `UnansweredError` after `close`."""
        with self._state:
            if self._is_closed:
                work.close()
                raise UnansweredError("the client was closed")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel what is under way, and close the connections."""
        with self._state:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    async def _retried(
        self,
        path: str,
        attempt: Callable[[], Coroutine[Any, Any, ResultT]],
        max_retries: int,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> ResultT:
        for num_failed in itertools.count(1):
            await asyncio.sleep(self._pace.next_start_s())
            try:
                return await attempt()
            except _TryAgainError as trouble:
                # It may block for a moment.
                await asyncio.to_thread(self._require_alive)
                if not may_retry():
                    raise UnansweredError(f"the answer broke off: {trouble}", trouble.status) from trouble
                delay_s = _delay_s(num_failed, trouble.retry_after_s)
                if num_failed > max_retries or delay_s > LONGEST_RETRY_AFTER_S:
                    raise self._unanswered(path, num_failed, trouble) from trouble
                if trouble.retry_after_s is not None:
                    self._pace.hold(delay_s)
                await asyncio.sleep(delay_s)
        raise AssertionError("counting has no end")

    def _unanswered(self, path: str, num_tries: int, trouble: _TryAgainError) -> UnansweredError:
        tries = "1 try" if num_tries == 1 else f"{num_tries} tries"
        what = f"{self.base_url}{path} gave no answer in {tries}; the last: {trouble}"
        if trouble.retry_after_s is not None and trouble.retry_after_s > LONGEST_RETRY_AFTER_S:
            what += f" (it asks to come back in {trouble.retry_after_s:.0f} s)"
        return UnansweredError(what, trouble.status, is_reply=trouble.is_reply)

    async def _try(
        self,
        method: str,
        path: str,
        read: Callable[[httpx2.Response, float], Coroutine[Any, Any, ResultT]],
        body: dict[str, Any] | None = None,
    ) -> ResultT:
        start_s = time.perf_counter()
        try:
            async with self._http.stream(method, self.base_url + path, json=body) as response:
                await self._require_success(response)
                return await read(response, start_s)
        except httpx2.TimeoutException as error:
            raise _TryAgainError(f"no answer within {self._settings.timeout_s:g} s ({type(error).__name__})") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _TryAgainError(self._hidden(f"{type(error).__name__}: {error}")) from error
        except BrokenReplyError as error:
            raise self._failure(error.status, str(error), is_reply=error.status is None) from error

    async def _read_reply(
        self, response: httpx2.Response, start_s: float, on_piece: Callable[[ReplyPiece], None]
    ) -> Reply:
        """Read the reply up to a deadline: the read timeout alone never ends an API that sends a byte now and then."""
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        reader = ReplyReader(is_stream=is_stream, start_s=start_s, on_piece=on_piece)
        async with contextlib.aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                if time.perf_counter() > start_s + self._settings.timeout_s:
                    raise httpx2.ReadTimeout("the reply is not whole")
                if reader.feed(piece):
                    break
        return reader.reply()

    async def _require_success(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        after_s = _retry_after_s(response.headers.get("Retry-After"))
        raise self._failure(response.status_code, error_message(await _beginning(response)), after_s)

    def _failure(
        self, status: int | None, message: str, retry_after_s: float | None = None, *, is_reply: bool = False
    ) -> RequestRefusedError | _TryAgainError:
        message = self._hidden(message)
        if status is not None and status < SERVER_ERROR and status not in RETRIED_STATUSES:
            return RequestRefusedError(status, message)
        reason = message if status is None else f"{status}: {message}"
        return _TryAgainError(reason, status=status, retry_after_s=retry_after_s, is_reply=is_reply)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, HIDDEN) if self._key else text


class _Pace:
    """Rate limiter: evenly spaced starts, and none before a time that the API asked for."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._interval_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def next_start_s(self) -> float:
        """Reserve the next start; return the seconds until then."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval_s
            return start - now

    def hold(self, seconds: float) -> None:
        """Start nothing for `seconds`."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _delay_s(num_failed: int, retry_after_s: float | None) -> float:
    """Exponential backoff with jitter, and at least what Retry-After asks for."""
    longest_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(num_failed - 1, 16))
    return max(longest_s * random.uniform(0.5, 1.0), retry_after_s or 0.0)


def _retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


async def _beginning(response: httpx2.Response) -> str:
    """Return the text of an error's body, at most `MAX_ERROR_BYTES` of it."""
    body = bytearray()
    async with contextlib.aclosing(response.aiter_bytes()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) >= MAX_ERROR_BYTES:
                break
    return body.decode("utf-8", errors="replace")


async def _read_json(response: httpx2.Response, _start_s: float) -> Any:
    await response.aread()
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise BrokenReplyError("the reply is not JSON") from error
