"""Check the fields of a request body against their table."""

import json
import re
from collections.abc import Mapping
from typing import Any

from moe_ray.serving.calls import ApiError
from moe_ray.serving.openai.fields import RequestField, Table
from moe_ray.serving.openai.values import conforms, described, has_type

MAX_IGNORED = 16
_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")


def refused(param: str, message: str, code: str | None = "invalid_value") -> ApiError:
    """Return the error for a field at fault. `message` holds nothing of the request but names of known fields."""
    return ApiError(400, message, code=code, param=param)


def obeyed_values(body: Mapping[str, Any], table: Table, ignored: list[str]) -> dict[str, Any]:
    """Return the values of the obeyed fields that `body` has; null is absent.

    Names that the table does not know are added to `ignored`. Raises `ApiError` for a value that no schema allows and
    for a missing field.
    """
    values = {}
    for name, value in body.items():
        field = table.get(name)
        if field is None:
            ignored.append(name)
        elif value is not None or field.required:
            check(field, value)
            if field.use == "obeyed":
                values[name] = value
    for name, field in table.items():
        if field.required and name not in values:
            raise refused(
                name, f"{name} is missing; it must be {described(field.schema)}", "missing_required_parameter"
            )
    return values


def check(field: RequestField, value: Any) -> None:
    """Raise `ApiError` unless `field` takes `value`."""
    if conforms(value, field.schema):
        return
    if field.use == "unsupported":
        neutral = " or ".join(json.dumps(one) for one in (*field.schema["enum"], None))
        why = f": {field.meaning}" if field.meaning else ""
        raise refused(
            field.name,
            f"{field.name} is not supported{why}; leave it out, or send {neutral}",
            "unsupported_parameter",
        )
    code = "invalid_value" if has_type(value, field.schema) else "invalid_type"
    raise refused(field.name, f"{field.name} must be {described(field.schema)}", code)


def printable_names(names: list[str]) -> tuple[str, ...]:
    """Return at most `MAX_IGNORED` different names, each short and fit for a header."""
    found: dict[str, None] = {}
    for name in names:
        found[_NOT_OF_A_NAME.sub("_", name[:64]) or "_"] = None
        if len(found) == MAX_IGNORED:
            break
    return tuple(found)
