"""Log-probabilities of tokens, as the bodies of chats and completions spell them."""

import math
from collections.abc import Iterable
from typing import Any

from moe_ray.characters import REPLACEMENT, whole_characters
from moe_ray.engines.base import Generation, TokenLogprob

LEAST = -9999.0
"""In place of minus infinity, which JSON lacks."""


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Return the object `logprobs` of a chat's choice."""
    return {
        "content": [
            {
                **_spelled(one.token, one.logprob),
                "top_logprobs": [_spelled(token, logprob) for token, _, logprob in one.top],
            }
            for one in tokens
        ]
    }


def completion_logprobs(tokens: Iterable[TokenLogprob], offset: int = 0) -> dict[str, list[Any]]:
    """Return the object `logprobs` of a completion's choice.

    `offset` is the place of the first token in the choice's text; each token moves it by the length of its text.
    """
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for one in tokens:
        token = whole_characters(one.token)
        _append(found, token, _finite(one.logprob), _alternatives(one), offset)
        offset += len(token)
    return found


def echoed_logprobs(generation: Generation) -> dict[str, list[Any]]:
    """Return the object `logprobs` of a choice that repeats its prompt: the prompt's tokens, then the drawn ones.

    The first token of the prompt has no log-probability. Its text is what the others leave of the prompt's.
    """
    told = [one for one in generation.prompt_logprobs if one is not None]
    untold = len(generation.prompt_logprobs) - len(told)
    first = generation.prompt_text.removesuffix("".join(one.token for one in told)) if untold else ""
    found = completion_logprobs((*told, *generation.logprobs), len(first))
    for _ in range(untold):
        for name, value in (("tokens", first), ("token_logprobs", None), ("top_logprobs", None), ("text_offset", 0)):
            found[name].insert(0, value)
    return found


def _append(found: dict[str, list[Any]], *values: Any) -> None:
    for entries, value in zip(found.values(), values, strict=True):
        entries.append(value)


def _alternatives(one: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens and the token itself. Of two tokens that are spelled alike, the likelier."""
    found: dict[str, float] = {}
    for token, logprob in (*((token, logprob) for token, _, logprob in one.top), (one.token, one.logprob)):
        spelled = whole_characters(token)
        found[spelled] = max(_finite(logprob), found.get(spelled, LEAST))
    return found


def _spelled(token: str, logprob: float) -> dict[str, Any]:
    token = whole_characters(token)
    known = REPLACEMENT not in token
    return {"token": token, "bytes": list(token.encode()) if known else None, "logprob": _finite(logprob)}


def _finite(logprob: float) -> float:
    return LEAST if math.isnan(logprob) else max(LEAST, logprob)
