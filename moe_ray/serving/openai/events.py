"""JSON text and server-sent events.

All JSON is ASCII: some clients split a stream at line separators of Unicode, which are legal within JSON.
"""

import json
from json.encoder import encode_basestring_ascii
from typing import Any

from moe_ray.characters import whole_characters

DONE = b"data: [DONE]\n\n"
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def json_text(value: Any) -> str:
    """Return `value` as compact JSON. Raises `ValueError` for numbers that JSON lacks."""
    return _ENCODER.encode(value)


def json_string(text: str) -> str:
    """Return `text` as a JSON string, without lone surrogates, which many readers refuse."""
    return encode_basestring_ascii(whole_characters(text))


def event(data: str, name: str | None = None) -> bytes:
    """Return one server-sent event whose data is the JSON text `data`."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {data}\n\n".encode()
