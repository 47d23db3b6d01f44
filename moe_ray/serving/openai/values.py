"""The part of JSON Schema that describes the fields of a request: check a value, put a schema into words.

Keywords: type, enum, minimum, exclusiveMinimum, maximum, minLength, maxLength, items, minItems, maxItems, properties,
required, additionalProperties (false alone), anyOf.
"""

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_WORDS = {
    "string": "a string", "integer": "an integer", "number": "a number", "boolean": "true or false",
    "object": "an object", "array": "a list", "null": "null",
}  # fmt: skip


def type_of(value: Any) -> str:
    """Return the name of the JSON type of `value`. A number without a fraction is an integer."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def has_type(value: Any, schema: Schema) -> bool:
    """Whether the JSON type of `value` is one that `schema` names."""
    if "anyOf" in schema:
        return any(has_type(value, one) for one in schema["anyOf"])
    found = type_of(value)
    if "enum" in schema:
        return any(type_of(one) == found for one in schema["enum"])
    named = schema.get("type", found)
    names = named if isinstance(named, list) else [named]
    return found in names or (found == "integer" and "number" in names)


def conforms(value: Any, schema: Schema) -> bool:
    """Whether `value` is as `schema` describes it."""
    if "anyOf" in schema:
        return any(conforms(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return any(same(value, one) for one in schema["enum"])
    if not has_type(value, schema):
        return False
    if isinstance(value, int | float):
        return _is_in_range(value, schema)
    if isinstance(value, str):
        return _has_length(len(value), schema.get("minLength"), schema.get("maxLength"))
    if isinstance(value, list):
        fits = _has_length(len(value), schema.get("minItems"), schema.get("maxItems"))
        return fits and _all_conform(value, schema.get("items", {}))
    return not isinstance(value, dict) or _has_properties(value, schema)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    if type_of(one) != type_of(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def _is_in_range(value: float, schema: Schema) -> bool:
    above = "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"]
    return bool(above and schema.get("minimum", value) <= value <= schema.get("maximum", value))


def _has_length(length: int, low: int | None, high: int | None) -> bool:
    return (low is None or low <= length) and (high is None or length <= high)


def _all_conform(values: list[Any], schema: Schema) -> bool:
    if schema.get("type") == "integer" and set(map(type, values)) == {int}:  # token ids, of which there are many
        return _is_in_range(min(values), schema) and _is_in_range(max(values), schema)
    return all(conforms(one, schema) for one in values)


def _has_properties(value: dict[str, Any], schema: Schema) -> bool:
    known = schema.get("properties", {})
    if schema.get("additionalProperties") is False and not value.keys() <= known.keys():
        return False
    return set(schema.get("required", ())) <= value.keys() and all(
        conforms(value[key], known[key]) for key in value.keys() & known.keys()
    )


def described(schema: Schema) -> str:
    """Return what a value must be, to follow the words "must be"."""
    if "anyOf" in schema:
        return " or ".join(described(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(one) for one in schema["enum"])
    named = schema.get("type", [])
    words = " or ".join(_WORDS[name] for name in ([named] if isinstance(named, str) else named))
    words += _range_in_words(schema)
    if "items" in schema:
        words += f", each {described(schema['items'])}"
    if schema.get("properties"):
        words += f" of {', '.join(schema['properties'])}"
    return words


def _range_in_words(schema: Schema) -> str:
    if "minItems" in schema or "maxItems" in schema:
        return _between(schema.get("minItems"), schema.get("maxItems"), " entries")
    if "minLength" in schema or "maxLength" in schema:
        return _between(schema.get("minLength"), schema.get("maxLength"), " characters")
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']} and up to {schema['maximum']}"
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']} to {schema['maximum']}"
    return f" of at least {schema['minimum']}" if "minimum" in schema else ""


def _between(low: int | None, high: int | None, unit: str) -> str:
    if high is None:
        return f" of at least {low}{unit}"
    return f" of up to {high}{unit}" if not low else f" of {low} to {high}{unit}"
