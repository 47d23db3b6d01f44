"""Log-probabilities of tokens and echoed prompts: how a request asks an API for them, how its replies spell them.

Replies are untrusted: what cannot be read counts as absent. An API tells a token by its text alone, so that token ids
are `UNKNOWN_ID`.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from moe_ray.config.schema import PromptStyle
from moe_ray.engines.base import GenerateRequest, TokenLogprob

UNKNOWN_ID = -1

Entries = tuple[TokenLogprob | None, ...]
"""One entry for each token; None for the first of a prompt, which follows nothing."""


class ReplyParts(NamedTuple):
    """A reply's text and entries: those of the echoed prompt, and those that were drawn."""

    prompt_text: str
    text: str
    prompt_logprobs: Entries
    logprobs: tuple[TokenLogprob, ...]


def logprob_keys(request: GenerateRequest, style: PromptStyle) -> dict[str, Any]:
    """Return the keys of a body that ask for what `request` asks for."""
    keys: dict[str, Any] = {"echo": True} if request.echo else {}
    num = request.num_logprobs
    if num is None:
        return keys
    if style == "completion":
        return keys | {"logprobs": num}
    return keys | {"logprobs": True} | ({"top_logprobs": num} if num else {})


def read_logprobs(choice: dict[str, Any]) -> Entries:
    """Return the entries of a choice, whole or a piece of it; none where it has no log-probabilities."""
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        return ()
    try:
        entries = _of_chat(given["content"]) if given.get("content") else _of_completion(given)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return ()
    return () if None in entries[1:] else entries


def parts_of_echo(prompt_text: str | None, text: str, entries: Entries, num_drawn: int | None) -> ReplyParts | None:
    """Return the parts of an echoed prompt with its answer; None where the API has not echoed, or they cannot be given.

    `prompt_text` is what was sent, None for token ids, and `num_drawn` the API's count of drawn tokens.
    """
    if prompt_text is not None and not text.startswith(prompt_text):
        return None
    if not entries:
        return None if prompt_text is None else ReplyParts(prompt_text, text.removeprefix(prompt_text), (), ())
    if num_drawn is None or len(entries) <= num_drawn:
        return None
    num_prompt = len(entries) - num_drawn
    drawn = tuple(one for one in entries[num_prompt:] if one is not None)
    if prompt_text is None:
        prompt_text = text.removesuffix(_spelled_end(text, drawn))
    return ReplyParts(prompt_text, text.removeprefix(prompt_text), entries[:num_prompt], drawn)


def _spelled_end(text: str, drawn: Sequence[TokenLogprob]) -> str:
    """The end of `text` that the drawn tokens spell; a last one that ends the answer is not in it."""
    spelled = ["".join(one.token for one in tokens) for tokens in (drawn, drawn[:-1])]
    return next((end for end in spelled if text.endswith(end)), "")


def num_within(entries: Sequence[TokenLogprob], num_characters: int) -> int:
    """Return how many of the tokens begin in the first `num_characters` of their text."""
    ends = accumulate((len(one.token) for one in entries), initial=0)
    return sum(start < num_characters for start in list(ends)[:-1])


def _of_chat(content: list[Any]) -> Entries:
    return tuple(
        TokenLogprob(
            token=_text(one["token"]),
            token_id=UNKNOWN_ID,
            logprob=_number(one["logprob"]),
            top=tuple(
                (_text(other["token"]), UNKNOWN_ID, _number(other["logprob"]))
                for other in one.get("top_logprobs") or ()
            ),
        )
        for one in content
    )


def _of_completion(given: dict[str, Any]) -> Entries:
    tokens, values = given["tokens"], given["token_logprobs"]
    tops = given.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        None
        if value is None
        else TokenLogprob(token=_text(token), token_id=UNKNOWN_ID, logprob=_number(value), top=_likeliest_first(top))
        for token, value, top in zip(tokens, values, tops, strict=True)
    )


def _likeliest_first(top: dict[str, Any] | None) -> tuple[tuple[str, int, float], ...]:
    found = [(_text(token), UNKNOWN_ID, _number(value)) for token, value in (top or {}).items()]
    return tuple(sorted(found, key=lambda entry: -entry[2]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a token is a text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a log-probability is a number")
    return float(value)
