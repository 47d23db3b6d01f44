"""Log-likelihoods from an API that gives log-probabilities of the prompt's own tokens.

There is no tokenizer here, and text offsets of APIs are unreliable (some count the spelling of a begin token). So the
context is sent alone, to count its tokens; a continuation's tokens are those of context and continuation together less
that many, as in the transformers engine. Both give the same numbers unless a token straddles
the border: the transformers engine then reads the context's own tokens before the rest, while an API reads the tokens
of the whole text.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_ray.engines.base import Likelihood, Timing
from moe_ray.engines.endpoint.dialect import Dialect, completion_text
from moe_ray.engines.endpoint.replies import Reply, RequestRefusedError
from moe_ray.prompts.messages import Message, Prompt

NO_LIKELIHOODS = "the endpoint gives no prompt log-probabilities"
PROBE_TEXT = "The sky is blue, and the sea is "
PROBE_CONTINUATION = "wide"
_TOO_LONG = re.compile(r"context|too long|too large|maximum.*(length|token)", re.IGNORECASE)

Ask = Callable[[str, dict[str, Any]], Reply]
TokenValues = tuple[float | None, ...]


class _UnreadableError(Exception):
    """A reply lacks the log-probabilities that were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spelled:
    """The prompt's tokens: how each is spelled, and its log-probability in nats, None where there is none."""

    tokens: tuple[str, ...]
    values: TokenValues


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """Keys that request the prompt's log-probabilities, how to read them, and how many tokens are drawn."""

    keys: dict[str, Any]
    read: Callable[[dict[str, Any], int], _Spelled]
    num_drawn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """A way that was proven on one API."""

    dialect: Dialect
    way: _Way

    def prompt_values(self, ask: Ask, prompt: Prompt, continuation: str | None) -> tuple[TokenValues, Reply]:
        """Return the values of all tokens of the prompt, or with a continuation of both together, and the reply."""
        spelled, reply = _spelled(self.dialect, self.way, ask, prompt, continuation)
        return spelled.values, reply


def _spelled(dialect: Dialect, way: _Way, ask: Ask, prompt: Prompt, continuation: str | None) -> tuple[_Spelled, Reply]:
    body = dialect.body(_joined(dialect, prompt, continuation)) | {"temperature": 0.0, **way.keys}
    if dialect.style == "chat" and continuation is not None:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    reply = ask(dialect.path, body)
    try:
        return way.read(reply.payload, _num_drawn(way, reply)), reply
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _UnreadableError(NO_LIKELIHOODS) from error


def _joined(dialect: Dialect, prompt: Prompt, continuation: str | None) -> Prompt:
    """The context alone loses the white space at its end, as in the transformers engine: a word's space is its own."""
    if dialect.style == "chat":
        said = () if continuation is None else (Message(role="assistant", content=continuation),)
        return Prompt(messages=prompt.messages + said)
    text = completion_text(prompt)
    return Prompt(
        messages=(Message(role="user", content=text.rstrip() if continuation is None else text + continuation),)
    )


def _num_drawn(way: _Way, reply: Reply) -> int:
    return way.num_drawn if reply.num_completion_tokens is None else reply.num_completion_tokens


def _read_echo(payload: dict[str, Any], num_drawn: int) -> _Spelled:
    """Echoed prompts list the drawn tokens behind the prompt's."""
    logprobs = payload["choices"][0]["logprobs"]
    num_prompt = len(logprobs["tokens"]) - num_drawn
    return _Spelled(
        tokens=tuple(map(str, logprobs["tokens"][:num_prompt])), values=_values(logprobs["token_logprobs"][:num_prompt])
    )


def _read_prompt_logprobs(payload: dict[str, Any], _num_drawn: int) -> _Spelled:
    """One mapping a token, None for the first: token id -> its log-probability; the prompt's own token comes first."""
    positions = payload.get("prompt_logprobs") or payload["choices"][0]["prompt_logprobs"]
    entries = [next(iter(one.values())) if one else {} for one in positions]
    return _Spelled(
        tokens=tuple(str(one.get("decoded_token") or "") for one in entries),
        values=_values([one.get("logprob") for one in entries]),
    )


def _values(values: Sequence[Any]) -> TokenValues:
    return tuple(None if value is None else float(value) for value in values)


ECHO = _Way(keys={"echo": True, "logprobs": 1, "max_tokens": 0}, read=_read_echo, num_drawn=0)
ECHO_AND_DRAW = _Way(keys={"echo": True, "logprobs": 1, "max_tokens": 1}, read=_read_echo, num_drawn=1)
PROMPT_LOGPROBS = _Way(keys={"prompt_logprobs": 1, "max_tokens": 1}, read=_read_prompt_logprobs, num_drawn=1)
WAYS = {"completion": (ECHO, ECHO_AND_DRAW, PROMPT_LOGPROBS), "chat": (PROMPT_LOGPROBS,)}


def find_prompt_logprobs(dialect: Dialect, ask: Ask) -> PromptLogprobs | None:
    """Return the first way that gives what it should for a known text, None when there is none."""
    return next(
        (PromptLogprobs(dialect=dialect, way=way) for way in WAYS[dialect.style] if _is_proven(dialect, way, ask)), None
    )


def _is_proven(dialect: Dialect, way: _Way, ask: Ask) -> bool:
    """Say whether the tokens spell what was sent, each but the first with a log-probability.

    The first may lack its spelling too (vLLM gives neither), so the text's first word is not looked for.
    """
    prompt = Prompt(messages=(Message(role="user", content=PROBE_TEXT),))
    try:
        spelled, reply = _spelled(dialect, way, ask, prompt, PROBE_CONTINUATION)
    except (RequestRefusedError, _UnreadableError):
        return False
    sent = PROBE_CONTINUATION if dialect.style == "chat" else PROBE_TEXT.partition(" ")[2] + PROBE_CONTINUATION
    known = [value for value in spelled.values[1:] if value is not None and value <= 0]
    return (
        "".join(spelled.tokens).endswith(sent)
        and len(known) == len(spelled.values) - 1 > 0
        and _num_drawn(way, reply) <= way.num_drawn
    )


def measure(logprobs: PromptLogprobs, ask: Ask, prompt: Prompt, num_rows: int) -> Likelihood:
    """Return the log-likelihood of each of the prompt's continuations; one that the context cannot hold gets None."""
    seconds: list[float] = []

    def timed(path: str, body: dict[str, Any]) -> Reply:
        reply = ask(path, body)
        seconds.append(reply.total_s)
        return reply

    num_context, sums, error = 0, list[tuple[float | None, int]](), None
    try:
        if not prompt.continuations:
            raise _UnreadableError("the prompt has no continuations to measure")
        num_context = len(logprobs.prompt_values(timed, prompt, None)[0])
        sums = [_sum(logprobs, timed, prompt, one, num_context) for one in prompt.continuations]
        if all(value is None for value, _ in sums):
            raise _UnreadableError("no continuation fits the endpoint's context after the prompt")
    except RequestRefusedError as refused:
        error = f"the endpoint refused this prompt: {refused}"
    except _UnreadableError as unreadable:
        error = str(unreadable)
    return Likelihood(
        loglikelihoods=() if error else tuple(value for value, _ in sums),
        num_tokens=() if error else tuple(num for _, num in sums),
        num_prompt_tokens=num_context,
        timing=Timing(batch_rows=num_rows, time_to_first_token_s=None, total_s=sum(seconds)),
        error=error,
    )


def _sum(
    logprobs: PromptLogprobs, ask: Ask, prompt: Prompt, continuation: str, num_context: int
) -> tuple[float | None, int]:
    """Return a continuation's log-likelihood and number of tokens; None and 0 when the API finds it too long."""
    try:
        values, _ = logprobs.prompt_values(ask, prompt, continuation)
    except RequestRefusedError as error:
        if not _TOO_LONG.search(str(error)):
            raise
        return None, 0
    own = values[num_context:]
    if not own:
        raise _UnreadableError(f"continuation {continuation!r} has no tokens of its own")
    known = [value for value in own if value is not None and math.isfinite(value)]
    if len(known) < len(own):
        raise _UnreadableError(f"the endpoint gives no number for a token of continuation {continuation!r}")
    return math.fsum(known), len(own)
