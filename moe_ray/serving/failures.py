"""Errors of the API and their responses."""

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from moe_ray.serving.calls import ApiError


def engine_error(reason: str, *, refused: bool) -> ApiError:
    """The error of an answer that failed; `refused` where the request is at fault."""
    if refused:
        return ApiError(400, reason, code="context_length_exceeded" if "context" in reason else None, param="messages")
    return ApiError(500, reason or "the model failed", kind="server_error", code="engine_failed")


def no_tokenizer() -> ApiError:
    """The refusal of what needs a tokenizer, where the engine has none here."""
    return ApiError(400, "the tokenizer of this model is not here: its engine asks an API", param="model")


def too_late(timeout_s: float) -> ApiError:
    """The error of a request that passed its deadline."""
    return ApiError(504, f"not answered within {timeout_s:g} s", kind="server_error", code="timeout")


def error_response(error: ApiError) -> JSONResponse:
    """The response to a refused or failed request."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Answer what the framework refuses, such as an unknown path."""
    assert isinstance(error, HTTPException)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return error_response(ApiError(error.status_code, str(error.detail), kind=kind))  # type: ignore[arg-type]


async def on_failure(_request: Request, _error: Exception) -> Response:
    """Answer where a handler has failed."""
    return error_response(ApiError(500, "the server failed; its log says why", kind="server_error"))
