"""Where a value lies in a record: a column, or a path into nested ones (`answer.label`, `answers.0.text`)."""

import math
import re
from collections.abc import Mapping
from typing import Any

from moe_ray.domains.base import Record

MISSING = object()

_PLACE = re.compile("[0-9]{1,9}")


def value_at(record: Record, column: str) -> Any:
    """Return the value of `column`, or `MISSING`.

    A column of that very name wins; else each dot leads into an object by its key or into a list by its number. Behind
    the end of a list, and inside of None, there is None: this record has nothing there, and others may.
    """
    return _value_in(record, column.split("."))


def _value_in(value: Any, parts: list[str]) -> Any:
    if not parts:
        return value
    if value is None:
        return None
    if isinstance(value, list | tuple):
        if not _PLACE.fullmatch(parts[0]):
            return MISSING
        return _value_in(value[int(parts[0])], parts[1:]) if int(parts[0]) < len(value) else None
    if not isinstance(value, Mapping):
        return MISSING
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        found = _value_in(value[key], parts[length:]) if key in value else MISSING
        if found is not MISSING:
            return found
    return MISSING


def is_empty(value: Any) -> bool:
    """True for what holds nothing: None, blank text, an empty list, and the NaN by which tables mark a missing cell."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))
