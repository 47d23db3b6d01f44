"""A request of the API in the terms of this package, and the errors that the API answers with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from moe_ray.prompts.messages import Prompt

Endpoint = Literal["chat", "completions", "responses", "route", "tokenize"]
ErrorType = Literal[
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error",
    "rate_limit_error", "server_error", "service_unavailable",
]  # fmt: skip

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall:
    """What a client asked for. None where it left a value to the experiment.

    A chat has one prompt. A completion has one for each text or list of token ids, in the order of `choices`: first
    the `n` samples of the first prompt. `query` is what the router reads: the user's turns of a chat, the text of a
    completion, None for token ids and for several texts.

    A call to /v1/route has the text to route as its `query`, a call to /tokenize one prompt.
    """

    endpoint: Endpoint
    model: str
    prompts: tuple[Prompt, ...]
    query: str | None
    stream: bool = False
    include_usage: bool = False
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    n: int = 1
    num_logprobs: int | None = None
    """Alternatives to report for each token, beside the token itself; None for no log-probabilities."""
    echo: bool = False
    store: bool | None = None
    instructions: str | None = None
    add_special_tokens: bool = True
    """Of /tokenize: whether the tokenizer adds its own tokens to a text."""
    ignored: tuple[str, ...] = ()
    """Names of unknown fields, which had no effect: printable, short and few. The header `x-moe-ray-ignored`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingVerdict:
    """Which model answers a call and why: the object `moe_ray` of a response."""

    requested: str
    expert: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    confidence: float | None = None
    out_of_domain: bool | None = None
    fell_back: bool = False
    pinned: str | None = None
    """Why the router was not obeyed: `session` or `background`."""
    router_ms: float = 0.0
    queue_ms: float = 0.0
    swap_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """How much one call may ask for."""

    max_choices: int = 128
    """Answers of one call: its prompts, times `n`."""


class ApiError(Exception):
    """A refusal or failure, as the client sees it.

    Args:
        message: what was wrong and what to do; it never repeats the client's input.
        param: the field at fault.
        retry_after_s: when to try again; None where that would not help; the response then says so.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: ErrorType = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error object of OpenAI's API."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`Retry-After` where it helps; after a failure that may have cost a generation, `x-should-retry: false`."""
        if self.retry_after_s is not None:
            seconds = min(120.0, max(1.0, self.retry_after_s))
            return {"retry-after": f"{seconds:.0f}", "retry-after-ms": f"{1000 * seconds:.0f}"}
        return {"x-should-retry": "false"} if self.status >= 500 else {}
