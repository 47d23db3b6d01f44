"""The HTTP API: what each path does, in the order in which a request is refused or served.

Host and Origin, key, admission and size are judged before a body is parsed; a body before the router reads it; the
first piece of an answer is awaited before the status is sent, so that errors keep theirs.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from moe_ray.serving.access import AccessGate
from moe_ray.serving.backend import Backend, Ticket
from moe_ray.serving.calls import AUTO, ApiCall, ApiError, CallLimits, Endpoint
from moe_ray.serving.connection import CLIENT_LEFT, EventStream, body_of, while_connected
from moe_ray.serving.failures import (
    engine_error,
    error_response,
    failed,
    no_tokenizer,
    on_failure,
    on_http_error,
    too_late,
)
from moe_ray.serving.openai import reading
from moe_ray.serving.openai.bodies import route_body, tokenize_body, writer_for
from moe_ray.serving.openai.schema import MODELS_OPERATION, PATHS, models_extra, openapi_extra
from moe_ray.serving.openai.writing import Writer
from moe_ray.serving.outcome import CallOutcome, log_request
from moe_ray.serving.page import page_files
from moe_ray.serving.recording import Recorder, rows_of
from moe_ray.serving.replica import CallPiece
from moe_ray.serving.status_paths import StatusPaths

LOGGER = logging.getLogger(__name__)
Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]
Handler = Callable[[Request], Awaitable[Response]]
ReadCall = Callable[[bytes], ApiCall]

MIB = 1 << 20
FULL_RETRY_S = 1.0
# Ids are unique, not secret; the operating system's randomness would cost a system call for each request.
_IDS = random.Random()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# How Open WebUI begins what it asks on its own: titles, tags, follow-up questions.
_BACKGROUND_PROMPT = "### Task:\n"


def make_api(backend: Backend, gate: AccessGate, lifespan: Lifespan, recorder: Recorder | None = None) -> FastAPI:
    """Return the ASGI application. Without a `recorder` nothing is recorded."""
    api, status = Api(backend, gate, recorder), StatusPaths(backend)
    app = FastAPI(
        title="moe_ray",
        description="Domain experts behind a router, in the terms of OpenAI's API.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_failure)
    limits = CallLimits()
    calls: dict[Endpoint, Handler] = {
        "chat": partial(api.complete, read=partial(reading.chat_call, limits=limits)),
        "completions": partial(api.complete, read=partial(reading.completion_call, limits=limits)),
        "responses": partial(api.complete, read=reading.responses_call),
        "route": api.route,
        "tokenize": api.tokenize,
    }
    for endpoint, handler in calls.items():
        app.add_api_route(
            PATHS[endpoint],
            api.guarded(handler),
            methods=["POST"],
            openapi_extra=openapi_extra(endpoint),
            response_model=None,
            name=endpoint,
            operation_id=endpoint,
        )
    app.add_api_route(
        "/v1/models",
        api.keyed(status.models),
        methods=["GET"],
        openapi_extra=models_extra(),
        response_model=None,
        operation_id=MODELS_OPERATION,
    )
    for path, handler in (
        ("/metrics", api.keyed(status.metrics)),
        ("/tokenizer_info", api.guarded(api.tokenizer_info)),
        ("/healthz", status.healthz),
        ("/readyz", status.readyz),
    ):
        app.add_api_route(path, handler, methods=["GET"], response_model=None)
    for path in page_files():
        app.add_api_route(path, status.page, methods=["GET"], include_in_schema=False, response_model=None)
    return app


class Api:
    """The handlers. `gate` judges headers; the models are behind `backend`."""

    def __init__(self, backend: Backend, gate: AccessGate, recorder: Recorder | None = None) -> None:
        self._backend = backend
        self._gate = gate
        self._recorder = recorder
        self._serving = backend.system.serving
        self._max_admitted = backend.system.max_calls
        self._num_admitted = 0

    def guarded(self, handler: Handler) -> Handler:
        """Wrap the handler of a call: gate, admission, deadline, errors, metrics."""

        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            try:
                self._gate.require_host(request.headers)
                self._gate.require_key(request.headers)
                self._require_room()
            except ApiError as error:
                self._count(request, error.status, started)
                return error_response(error)
            self._num_admitted += 1
            try:
                async with asyncio.timeout(self._serving.request_timeout_s):
                    response = await handler(request)
            except TimeoutError:
                response = error_response(too_late(self._serving.request_timeout_s))
            except ApiError as error:
                response = error_response(error)
            except asyncio.CancelledError:
                self._leave(request, CLIENT_LEFT, started)
                raise
            except Exception:
                LOGGER.exception("a call to %s failed", request.url.path)
                response = error_response(failed())
            if isinstance(response, EventStream):  # it counts until its last byte
                response.on_end = partial(self._leave, request, response.status_code, started)
            else:
                self._leave(request, response.status_code, started)
            return response

        return handle

    def keyed(self, handler: Handler) -> Handler:
        """Wrap a handler that needs a key, but does no work."""

        async def handle(request: Request) -> Response:
            try:
                self._gate.require_host(request.headers)
                self._gate.require_key(request.headers)
                return await handler(request)
            except ApiError as error:
                return error_response(error)

        return handle

    async def complete(self, request: Request, *, read: ReadCall) -> Response:
        """Answer a call: a conversation, a completion or a response."""
        ticket = await self._ticket(request, read)
        ticket.verdict = await self._backend.judge(ticket)
        if ticket.call.stream:
            return await self._streamed(request, ticket)
        _, answers = await while_connected(request.receive, self._backend.answer(ticket))
        outcome = self._outcome(ticket)
        for choice, one in enumerate(answers):
            if one.finish_reason == "error":
                raise engine_error(ticket.call, one.error or "", refused=one.refused)
            outcome.add(choice, one)
        writer = _writer(ticket)
        self._finish(ticket, outcome)
        return Response(writer.whole(answers), media_type="application/json", headers=_verdict_headers(ticket))

    async def route(self, request: Request) -> Response:
        """Say where the router sends a text, and ask no model."""
        ticket = await self._ticket(request, reading.route_call)
        verdict = await self._backend.routed(ticket.call.query)
        ticket.verdict = verdict
        return JSONResponse(route_body(verdict, request_id=ticket.id), headers=_verdict_headers(ticket))

    async def tokenize(self, request: Request) -> Response:
        """Return the token ids of a text or a conversation, as a model reads them."""
        ticket = await self._ticket(request, reading.tokenize_call)
        if ticket.call.model == AUTO:
            ticket.call = replace(ticket.call, model=self._backend.system.default_model)
        ticket.verdict = await self._backend.judge(ticket)
        ids = await self._backend.ask(ticket, "token_ids", ticket.call.prompts[0], ticket.call.add_special_tokens)
        if ids is None:
            raise no_tokenizer()
        if isinstance(ids, str):
            raise ApiError(400, ids, param="prompt")
        limit = self._backend.system.by_name[ticket.verdict.expert].context_tokens
        return JSONResponse(tokenize_body(ids, context_length=limit or 0))

    async def tokenizer_info(self, request: Request) -> Response:
        """Describe a model's tokenizer, as lm-evaluation-harness asks for it."""
        name = request.query_params.get("model") or AUTO
        name = self._backend.system.default_model if name == AUTO else name
        call = ApiCall(endpoint="tokenize", model=name, prompts=(), query=None)
        ticket = Ticket(id=_request_id(request), call=call)
        ticket.verdict = await self._backend.judge(ticket)
        facts = await self._backend.ask(ticket, "tokenizer_facts")
        if facts is None:
            raise no_tokenizer()
        return JSONResponse(facts)

    def _require_room(self) -> None:
        if self._num_admitted >= self._max_admitted:
            self._backend.metrics.add("moe_ray_refusals_total", kind="full")
            raise ApiError(
                503,
                f"{self._num_admitted} requests are being served",
                kind="service_unavailable",
                code="queue_full",
                retry_after_s=FULL_RETRY_S,
            )

    async def _ticket(self, request: Request, read: ReadCall) -> Ticket:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ApiError(415, "send JSON, with Content-Type: application/json", code="unsupported_media_type")
        call = read(await body_of(request, int(self._serving.max_body_mib * MIB)))
        session = request.headers.get("x-session-id")
        request.state.ticket = ticket = Ticket(
            id=_request_id(request),
            call=call,
            session=session if session and _REQUEST_ID.fullmatch(session) else None,
            background=request.headers.get("x-moe-ray-priority") == "background"
            or bool(call.query and call.query.startswith(_BACKGROUND_PROMPT)),
        )
        return ticket

    async def _streamed(self, request: Request, ticket: Ticket) -> Response:
        """Wait for the first pieces, then answer 200 and send what comes."""
        pieces = self._backend.stream(ticket)
        outcome = self._outcome(ticket)
        try:
            first = await while_connected(request.receive, _first(pieces))
            writer = _writer(ticket)
            begun = writer.start() + _written(ticket, writer, first, outcome)
        except BaseException:
            await pieces.aclose()
            raise
        events = self._events(writer, pieces, begun, ticket, outcome)
        return EventStream(events, pieces, headers=_verdict_headers(ticket))

    async def _events(
        self,
        writer: Writer,
        pieces: AsyncGenerator[list[CallPiece]],
        begun: bytes,
        ticket: Ticket,
        outcome: CallOutcome,
    ) -> AsyncGenerator[bytes]:
        """The events of a stream, whose failures are events too."""
        left_s = self._serving.request_timeout_s - (time.perf_counter() - ticket.started)
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                yield begun
                async for more in pieces:
                    yield _written(ticket, writer, more, outcome)
                self._finish(ticket, outcome)
                yield writer.end()
        except ApiError as error:
            ticket.end = "failed"
            yield writer.failure(error)
        except TimeoutError:
            ticket.end = "failed"
            yield writer.failure(too_late(self._serving.request_timeout_s))
        except Exception:
            LOGGER.exception("a stream of %s failed", ticket.call.endpoint)
            ticket.end = "failed"
            yield writer.failure(failed())

    def _leave(self, request: Request, status: int, started: float) -> None:
        """An admitted call is over."""
        self._num_admitted -= 1
        self._count(request, status, started)

    def _count(self, request: Request, status: int, started: float) -> None:
        self._backend.metrics.add("moe_ray_requests_total", path=request.url.path, status=str(status))
        elapsed_s = time.perf_counter() - started
        self._backend.metrics.observe("moe_ray_request_seconds", elapsed_s)
        ticket = getattr(request.state, "ticket", None)
        log_request(_request_id(request) if ticket is None else ticket.id, request.url.path, status, elapsed_s, ticket)

    def _outcome(self, ticket: Ticket) -> CallOutcome:
        is_recorded = self._recorder is not None and ticket.call.store is not False
        outcome = CallOutcome(ticket.call, keeps_text=is_recorded)
        ticket.counts = outcome.counts
        return outcome

    def _finish(self, ticket: Ticket, outcome: CallOutcome) -> None:
        """All answers of a call are whole: count and record them."""
        assert ticket.verdict is not None
        ticket.end = "complete"
        metrics, counts = self._backend.metrics, outcome.counts
        for name, number in (("prompt", counts.prompt), ("completion", counts.completion)):
            metrics.add(f"moe_ray_{name}_tokens_total", number, model=ticket.verdict.expert)
        if self._recorder is not None and outcome.texts:
            self._recorder.add(rows_of(ticket, outcome.texts))
            if dropped := self._recorder.take_dropped():
                metrics.add("moe_ray_recording_dropped_total", dropped)


def _writer(ticket: Ticket) -> Writer:
    assert ticket.verdict is not None
    return writer_for(ticket.call, ticket.verdict, request_id=ticket.id, created=int(time.time()))


async def _first(pieces: AsyncGenerator[list[CallPiece]]) -> list[CallPiece]:
    return await anext(pieces, [])


def _written(ticket: Ticket, writer: Writer, pieces: Sequence[CallPiece], outcome: CallOutcome) -> bytes:
    """The events of some pieces, whose tokens are counted; raises `ApiError` at one whose choice has failed."""
    for piece in pieces:
        if piece.delta.finish_reason == "error":
            raise engine_error(ticket.call, piece.delta.error or "", refused=piece.delta.refused)
        outcome.add(piece.choice, piece.delta)
    return b"".join(writer.delta(piece.choice, piece.delta) for piece in pieces)


def _request_id(request: Request) -> str:
    """The client's id where it is one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"{_IDS.getrandbits(96):024x}"


def _verdict_headers(ticket: Ticket) -> dict[str, str]:
    verdict = ticket.verdict
    assert verdict is not None
    headers = {"x-moe-ray-model": verdict.expert, "x-moe-ray-fell-back": str(verdict.fell_back).lower()}
    if verdict.confidence is not None:
        headers["x-moe-ray-confidence"] = f"{verdict.confidence:.4f}"
    if ticket.call.ignored:
        headers["x-moe-ray-ignored"] = ",".join(ticket.call.ignored)
    return headers
