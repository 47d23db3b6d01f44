"""JSON from untrusted clients: one object, read in linear time; everything ambiguous is refused."""

import json
import math
import re
from typing import Any, NoReturn

from moe_ray.serving.calls import ApiError

MAX_DEPTH = 64
MAX_NUMBER_LENGTH = 100
MAX_PARTS = 200_000
"""Strings, and ends of lists and objects: reading that many holds up the other requests for long enough."""
_INTEGERS = range(-(2**63), 2**64)

# An unclosed string reaches to the end of the text, and no quantifier gives back what it took: both keep it linear.
_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_LONG_NUMBER = re.compile("[0-9]{19}")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _RefusedError(Exception):
    """What is wrong with the text, in words that hold none of it."""


def read_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` spells.

    Raises `ApiError` (400) for: bytes that are not UTF-8, anything but an object, NaN and infinities (also a number
    too large for a double), integers outside of 64 bits, a key that an object has twice, a surrogate without its
    partner, more than `MAX_DEPTH` levels, and more than `MAX_PARTS` strings, lists and objects.
    """
    try:
        value = _read(body)
    except _RefusedError as error:
        raise ApiError(400, f"the request body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the request body must be a JSON object")
    return value


def _read(body: bytes) -> Any:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _RefusedError(f"byte {error.start} is not UTF-8") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_parts(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer if _LONG_NUMBER.search(text) else None,
            parse_float=_float,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise _RefusedError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    if _ESCAPED_SURROGATE.search(text):
        _check_surrogates(value)
    return value


def _check_parts(text: str) -> None:
    depth = 0
    for number, found in enumerate(_STRINGS_AND_BRACKETS.finditer(text)):
        if number == MAX_PARTS:
            raise _RefusedError(f"it has more than {MAX_PARTS} strings, lists and objects")
        first = text[found.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _RefusedError(f"it is nested more than {MAX_DEPTH} levels deep")
        elif first != '"':
            depth -= 1


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _RefusedError("a string has one half of a surrogate pair") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RefusedError("an object has the same key twice")
    return found


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER_LENGTH or int(text) not in _INTEGERS:
        raise _RefusedError("an integer does not fit in 64 bits")
    return int(text)


def _float(text: str) -> float:
    number = float(text) if len(text) <= MAX_NUMBER_LENGTH else math.inf
    if not math.isfinite(number):
        raise _RefusedError(f"a number is infinite or longer than {MAX_NUMBER_LENGTH} characters")
    return number


def _constant(_name: str) -> NoReturn:
    raise _RefusedError("NaN and Infinity are not numbers of JSON")
