"""Reading results from answers: settings of the graders that do, and the patterns that they share.

Everything here takes time linear in the text, or is bounded: a model wrote it.
"""

import json
import re
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import regex
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from moe_ray.errors import ConfigError
from moe_ray.scoring.samples import UnscorableError

# Of a longer text, its beginning and its end are read.
HEAD_CHARACTERS, TAIL_CHARACTERS = 4_000, 16_000
MAX_JSON_ATTEMPTS = 200
MAX_BOXED_CHARACTERS = 2_000
PATTERN_TIMEOUT_S = 1.0
MAX_TIMEOUTS = 5
MAX_MESSAGE = 300

SettingsT = TypeVar("SettingsT", bound=BaseModel)
Way = Literal["auto", "first", "last", "last_line", "answer_is", "boxed", "json", "pattern"]
Ways = Annotated[tuple[Way, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class ReadingSettings(BaseModel):
    """How an answer is read: the ways are tried in their order, until one finds something."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unknown_ways: ClassVar[frozenset[str]] = frozenset()

    read: Ways = Field(("auto",), min_length=1, description="one way, or a list of ways that are tried in order")
    key: str = Field("answer", min_length=1, description="of a JSON object in the answer")
    pattern: str | None = Field(None, max_length=1000, description="a regular expression with one group; last match")

    @field_validator("pattern")
    @classmethod
    def _safe(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            require_safe(pattern)
        return pattern

    @model_validator(mode="before")
    @classmethod
    def _pattern_alone(cls, given: Any) -> Any:
        alone = isinstance(given, dict) and given.get("pattern") is not None and "read" not in given
        return {**given, "read": "pattern"} if alone else given

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if unfit := [way for way in self.read if way in self.unknown_ways]:
            raise ValueError(f"read: this grader does not know the way {unfit[0]}")
        if ("pattern" in self.read) != (self.pattern is not None):
            raise ValueError("pattern and read: pattern go together")
        return self

    @cached_property
    def search(self) -> "PatternSearch":
        """The search for `pattern`."""
        return PatternSearch(self.pattern or "()")


def require_safe(pattern: str) -> None:
    """Raise `ValueError` unless `pattern` compiles, has one group, and repeats nothing that repeats itself."""
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise ValueError(f"has {compiled.groups} groups; write one around the answer, and (?:...) elsewhere")
    if _repeats_a_repetition(pattern):
        raise ValueError("repeats a group that itself repeats, such as (a+)+, which can take for ever; simplify it")


def _repeats_a_repetition(pattern: str) -> bool:
    plain = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "x", plain)
    opened: list[bool] = [False]
    for at, letter in enumerate(plain):
        if letter == "(":
            opened.append(False)
        elif letter == ")" and len(opened) > 1:
            inside = opened.pop()
            repeated = _REPEATED.match(plain, at + 1) is not None
            if inside and repeated:
                return True
            opened[-1] |= inside or repeated
        elif _REPEATED.match(plain, at) is not None:
            opened[-1] = True
    return False


_REPEATED = re.compile(r"[*+]|\{\d*,\d*\}|\{\d{2,}\}")


class PatternSearch:
    """The last match of a user's pattern. A match that takes too long is given up; after a few, all are."""

    def __init__(self, pattern: str) -> None:
        self._compiled = regex.compile(pattern)
        self._num_timeouts = 0

    def last(self, text: str) -> str | None:
        """Return the group of the last match; raises `UnscorableError` when the search takes too long."""
        try:
            if self._num_timeouts >= MAX_TIMEOUTS:
                raise TimeoutError
            found = deque(self._compiled.finditer(text, timeout=PATTERN_TIMEOUT_S), maxlen=1)
        except TimeoutError as error:
            self._num_timeouts += 1
            raise UnscorableError(f"the grader's pattern takes more than {PATTERN_TIMEOUT_S:g} s here") from error
        return found[0][1] if found else None


_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")


def bounded(text: str) -> str:
    """Return `text`, or the beginning and the end of a long one, with straight quotes."""
    text = text.translate(_STRAIGHT)
    if len(text) <= HEAD_CHARACTERS + TAIL_CHARACTERS:
        return text
    return f"{text[:HEAD_CHARACTERS]}\n{text[-TAIL_CHARACTERS:]}"


def last_line(text: str) -> str:
    """Return the last line that holds a letter or a digit; empty when there is none."""
    lines = (line for line in reversed(text.splitlines()) if any(map(str.isalnum, line)))
    return next(lines, "").strip()


def boxed(text: str) -> str | None:
    r"""Return what the last \boxed{...} holds, without the LaTeX around it."""
    place = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    start = text.find("{", place, place + 10) if place >= 0 else -1
    if start < 0:
        return None
    depth = 0
    for at in range(start, min(len(text), start + MAX_BOXED_CHARACTERS)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return without_latex(text[start + 1 : at])
    return None


_LATEX_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textit|mathit|rm|bf)\s?\{([^{}]*)\}")


def without_latex(text: str) -> str:
    r"""Return `text` without dollar signs around it and without \text{...} around its parts."""
    return _LATEX_WRAPPER.sub(r"\1", text).strip().strip("$").strip()


def json_value(text: str, key: str) -> str | None:
    """Return the value of `key` in the last JSON object of `text` that has it, as text.

    A broken object is read too, if the key and a simple value after it are whole.
    """
    found = None
    for value in _objects(text):
        if isinstance(value.get(key), str | int | float | bool):
            found = value[key]
    if found is not None:
        return found if isinstance(found, str) else json.dumps(found)
    broken = re.findall(
        rf'"{re.escape(key)}"\s{{0,9}}:\s{{0,9}}(?:"([^"\n]{{0,500}})|([^\s",{{}}\[\]]{{1,100}}))', text
    )
    return (broken[-1][0] or broken[-1][1]) if broken else None


def _objects(text: str) -> list[dict[str, Any]]:
    decoder, found, place = json.JSONDecoder(), list[dict[str, Any]](), text.find("{")
    for _ in range(MAX_JSON_ATTEMPTS):
        if place < 0:
            break
        try:
            value, place = decoder.raw_decode(text, place)
            found.append(value)
        except (ValueError, RecursionError):
            place += 1
        place = text.find("{", place)
    return found


def parsed(kind: type[SettingsT], settings: Mapping[str, Any], *, where: str) -> SettingsT:
    """Return a grader's settings as `kind`; raises `ConfigError` that names the wrong setting. `where` is their key."""
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        unknown = first["type"] == "extra_forbidden"
        key = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            "no such setting" if unknown else problem[:MAX_MESSAGE],
            where=f"{where}.{key}" if key else where,
            remedy=f"settings are: {', '.join(sorted(kind.model_fields))}",
        ) from error
