"""The errors of the API as responses, in OpenAI's shape. None repeats anything of a request."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from moe_ray.engines.base import NO_ECHO, NO_LOGPROBS
from moe_ray.serving.calls import ApiCall, ApiError

_UNSUPPORTED = {NO_LOGPROBS: "logprobs", NO_ECHO: "echo"}


def engine_error(call: ApiCall, reason: str, *, refused: bool) -> ApiError:
    """Return the error for a call whose engine gave `reason`; `refused` says that the call is at fault."""
    if refused and reason in _UNSUPPORTED:
        return ApiError(400, reason, code="unsupported_value", param=_UNSUPPORTED[reason])
    if refused:
        param = {"completions": "prompt", "responses": "input"}.get(call.endpoint, "messages")
        param = "logprobs" if call.num_logprobs is not None and "logprobs" in reason else param
        return ApiError(400, reason, code="context_length_exceeded" if "context" in reason else None, param=param)
    return ApiError(500, reason or "the model failed", kind="server_error", code="engine_failed")


def no_logprobs(call: ApiCall) -> ApiError:
    """Return the error for a call that asks for log-probabilities or an echo of an engine that gives none."""
    return engine_error(call, NO_ECHO if call.num_logprobs is None else NO_LOGPROBS, refused=True)


def no_tokenizer() -> ApiError:
    """Return the error for a model whose engine asks an API."""
    return ApiError(400, "the tokenizer of this model is not here: its engine asks an API", param="model")


def too_large(limit: int) -> ApiError:
    """Return the error for a body of more than `limit` bytes."""
    return ApiError(413, f"the body is larger than {limit} bytes", code="request_too_large")


def failed() -> ApiError:
    """Return the error for a fault of this server, which its log explains."""
    return ApiError(500, "the server failed; its log says why", kind="server_error")


def too_late(timeout_s: float) -> ApiError:
    """Return the error for a call that took longer than it may."""
    return ApiError(504, f"not answered within {timeout_s:g} s", kind="server_error", code="timeout")


def error_response(error: ApiError) -> JSONResponse:
    """Return the response of an error."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Answer a path or a method that is not there."""
    assert isinstance(error, HTTPException)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    response = error_response(ApiError(error.status_code, str(error.detail), kind=kind))  # type: ignore[arg-type]
    response.headers.update(error.headers or {})
    return response


async def on_failure(_request: Request, _error: Exception) -> Response:
    """Answer for a handler that raised what it should not have raised."""
    return error_response(failed())
