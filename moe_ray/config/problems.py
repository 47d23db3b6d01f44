"""Pydantic's errors as messages for the author of an experiment file: line, key, expected value."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from moe_ray.config.schema import ExperimentConfig
from moe_ray.config.tree import Document, KeyPath, dotted
from moe_ray.errors import ConfigError
from moe_ray.suggestions import suggestion

MAX_PROBLEMS = 10
MAX_SHOWN = 40

_NUMBER_LIKE = re.compile(r"^(?:[-+.\d]+|true|false)$", re.IGNORECASE)

NAME_RULE = "a name: letters, digits, dot, dash, underscore; at most 64; a letter or digit first"
_QUOTE_REMEDY = "put text that begins with { or [, or that holds a colon, in quotes"

_WANTED = {
    "string_type": "text",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "model_type": "a section with keys",
    "dict_type": "a section with keys",
    "tuple_type": "a list",
    "string_pattern_mismatch": NAME_RULE,
    "string_too_short": "text that is not empty",
    "too_short": "at least one entry",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, at one key."""

    path: KeyPath
    what: str
    remedy: str | None = None


def config_error(problems: Sequence[Problem], document: Document, source: str) -> ConfigError:
    """Make one error of all problems, in the order of the file; at most `MAX_PROBLEMS` are written out."""
    ordered = sorted(problems, key=lambda problem: document.place(problem.path).line or 0)
    if len(ordered) == 1:
        problem = ordered[0]
        return ConfigError(problem.what, where=_where(problem, document), remedy=problem.remedy)
    lines = [
        f"{_where(problem, document)}: {problem.what}" + (f" ({problem.remedy})" if problem.remedy else "")
        for problem in ordered[:MAX_PROBLEMS]
    ]
    if len(ordered) > MAX_PROBLEMS:
        lines.append(f"and {len(ordered) - MAX_PROBLEMS} more")
    what = f"{len(ordered)} problems\n  " + "\n  ".join(lines)
    remedy = "fix them; docs/reference/config.md describes every key, docs/reference/mixtures.md those of moe-ray moe"
    return ConfigError(what, where=source, remedy=remedy)


def _where(problem: Problem, document: Document) -> str:
    place = document.place(problem.path)
    if not problem.path or problem.path == place.option_key:
        return place.where
    return f"{place.where}: {dotted(problem.path)}"


def problems_of(error: ValidationError, document: Document, root: type[BaseModel] = ExperimentConfig) -> list[Problem]:
    """Translate pydantic's errors; several for one value (one for each type it might have) become one problem.

    `root` is what the whole document was validated as.
    """
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(key_path(detail, document), []).append(detail)
    for path, details in list(grouped.items()):
        # Where a section may stand in place of a text, what is wrong inside the section says it all.
        inside = any(len(other) > len(path) and other[: len(path)] == path for other in grouped)
        if inside and all(isinstance(detail["input"], dict) for detail in details):
            del grouped[path]
    return [_problem(path, details, document, root) for path, details in grouped.items()]


def key_path(detail: ErrorDetails, document: Document) -> KeyPath:
    """Return the key that an error is about: its location without pydantic's marks of types."""
    path: KeyPath = ()
    value = document.value
    for part in detail["loc"]:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            path, value = (*path, part), value[part]  # type: ignore[index]
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else path


def _problem(path: KeyPath, details: Sequence[ErrorDetails], document: Document, root: type[BaseModel]) -> Problem:
    first = details[0]
    if first["type"] == "missing":
        return _missing(path, document, root)
    if first["type"] == "extra_forbidden":
        return _unknown(path, root)
    if first["type"] == "value_error":
        return _broken_rule(path, str(first["ctx"]["error"]), root)
    if first["loc"][-1] == "[key]":
        return Problem(path=path, what=f"the key is not {NAME_RULE}")
    wanted = " or ".join(dict.fromkeys(_wanted(detail) for detail in details))
    given = first["input"]
    hint = _literal_hint(details, given)
    remedy = _QUOTE_REMEDY if first["type"] == "string_type" and isinstance(given, dict | list) else None
    return Problem(path=path, what=f"must be {wanted}, not {_shown(given)}{hint}", remedy=remedy)


def _missing(path: KeyPath, document: Document, root: type[BaseModel]) -> Problem:
    parent, key = path[:-1], str(path[-1])
    field = _fields_at(parent, root).get(key)
    remedy = f"{key}: {field.description}" if field and field.description else f"add {key}"
    siblings = _value_at(document.value, parent[:-1]) if parent else {}
    if document.place(parent).line is None and isinstance(siblings, dict) and parent:
        others = [name for name in siblings if name != parent[-1]]
        hint = suggestion(str(parent[-1]), others)
        return Problem(path=path, what=f"the file has no {dotted(parent)}{hint}", remedy=f"to add it, set {key} too")
    return Problem(path=path, what="missing", remedy=remedy)


def _unknown(path: KeyPath, root: type[BaseModel]) -> Problem:
    known = _fields_at(path[:-1], root)
    hint = suggestion(str(path[-1]), known)
    if hint:
        return Problem(path=path, what=f"unknown key{hint}")
    sections = _all_fields() if root is ExperimentConfig else {}
    homes = [dotted((*section, str(path[-1]))) for section, keys in sections.items() if path[-1] in keys]
    if homes:
        return Problem(path=path, what=f"unknown key here; did you mean {' or '.join(homes)}?")
    return Problem(path=path, what="unknown key", remedy=f"known here: {', '.join(known)}")


def _broken_rule(path: KeyPath, message: str, root: type[BaseModel]) -> Problem:
    """A rule over several keys begins its message with the key to change."""
    key = message.split(" ", 1)[0]
    return Problem(path=(*path, key) if key in _fields_at(path, root) else path, what=message)


def _wanted(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "")
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        bound = detail["ctx"][key]
        return f"{words} {bound if isinstance(bound, int) else format(bound, 'g')}"
    return _WANTED.get(kind, detail["msg"])


def _literal_hint(details: Sequence[ErrorDetails], given: object) -> str:
    expected = [str(detail["ctx"]["expected"]) for detail in details if detail["type"] == "literal_error"]
    words = [word.strip("' ") for text in expected for word in text.replace(" or ", ",").split(",")]
    return suggestion(given, words) if isinstance(given, str) else ""


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section with keys"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = f'the text "{value}"' if isinstance(value, str) and _NUMBER_LIKE.match(value) else str(value)
    text = text.strip().replace("\n", "\\n")
    return (text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "...") or "empty text"


def _value_at(value: Any, path: KeyPath) -> Any:
    for part in path:
        value = value[part]
    return value


def _fields_at(path: KeyPath, root: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return the fields of the section at `path`; none where there is no section of fixed keys."""
    kind: Any = root
    for part in path:
        kind = _without_none(kind)
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        elif _is_section(kind) and (field := _field_of(kind, str(part))):
            kind = field.annotation
        else:
            return {}
    kind = _without_none(kind)
    return kind.model_fields if _is_section(kind) else {}


def _field_of(section: type[BaseModel], key: str) -> FieldInfo | None:
    """Return the field of a key, which may be the key's name in earlier versions."""
    by_alias = {
        name: field
        for field in section.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for name in field.validation_alias.choices
    }
    return section.model_fields.get(key) or by_alias.get(key)


def _without_none(kind: Any) -> Any:
    """Return what an optional field holds when it is there, of several kinds the section; any other kind as it is."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    others = [arg for arg in get_args(kind) if arg is not type(None)]
    sections = [arg for arg in others if _is_section(arg)]
    kinds = sections if len(sections) == 1 else others
    return kinds[0] if len(kinds) == 1 else kind


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _all_fields() -> dict[KeyPath, Mapping[str, FieldInfo]]:
    sections: tuple[KeyPath, ...] = (
        (),
        ("models", "NAME"),
        ("domains", "NAME"),
        ("domains", "NAME", "data"),
        ("domains", "NAME", "prompt"),
        ("decoding",),
        ("runtime",),
        ("runtime", "sandbox"),
        ("output",),
    )
    return {section: _fields_at(section, ExperimentConfig) for section in sections}
