"""YAML read into plain values, each with the place where it was written.

Scalars follow the core schema of YAML 1.2: only `true` and `false` are booleans (a label `no` stays the text
it is), `1e-3` is a number, and there are no dates, octal or base-60 numbers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from moe_ray.characters import whole_characters
from moe_ray.errors import ConfigError

KeyPath = tuple[str | int, ...]

MAX_VALUES = 100_000

_TAG = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("merge", r"^<<$", ["<"]),
)
_REMEDIES = (
    ("'\\t' that cannot start", "a tab character; YAML indents with spaces", "replace the tabs by spaces"),
    (
        "mapping values are not allowed here",
        "a second `key: value` where none can be",
        "put text with a colon in quotes, or fix the indentation",
    ),
    (
        "expected a single document",
        "a second document begins here",
        "an experiment is one document: remove the `---` in the middle",
    ),
)
_DEFAULT_REMEDY = "check indentation, quotes and brackets at that line and the one above"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value was written: a line of the file, or an option (`line` is then None).

    `text` is a plain (unquoted) scalar as it was spelled, so that `revision: 0123` can still be the text it is.
    `option_key` is the key path that the option named.
    """

    where: str
    line: int | None = None
    text: str | None = None
    option_key: KeyPath | None = None


@dataclass(slots=True, kw_only=True)
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and the place of each of them by its key path."""

    value: Any
    places: dict[KeyPath, Place]

    def place(self, path: KeyPath) -> Place:
        """Return the place of `path`, or of the nearest section around it that was written."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


class CoreLoader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own protocol)


def add_core_resolvers(kind: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    """Let a PyYAML loader or dumper resolve plain scalars by the core schema too."""
    for tag, pattern, first in _RESOLVERS:
        kind.add_implicit_resolver(_TAG + tag, re.compile(pattern), first)


add_core_resolvers(CoreLoader)


def dotted(path: KeyPath) -> str:
    """Spell a key path as --set takes it: `models."phi-3.5".dtype`."""
    return ".".join(f'"{part}"' if "." in str(part) else str(part) for part in path)


def parse_yaml(text: str, place_of: Callable[[int], Place]) -> Document:
    """Read one YAML document. `place_of` turns a line number, counted from 1, into the place that messages name.

    Raises `ConfigError` on invalid YAML, on a key that is given twice, and on tags beyond plain values.
    """
    try:
        node = yaml.compose(text, Loader=CoreLoader)
        builder = _Builder(place_of)
        value = None if node is None else builder.build(node, (), 1)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, place_of) from error
    except RecursionError as error:
        raise ConfigError(
            "nested too deeply to be an experiment", where=place_of(1).where, remedy=_DEFAULT_REMEDY
        ) from error
    return Document(value=value, places={(): place_of(1), **builder.places})


def _syntax_error(error: yaml.YAMLError, text: str, place_of: Callable[[int], Place]) -> ConfigError:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        for fragment, what, remedy in _REMEDIES:
            if fragment in f"{error.context} {error.problem}":
                return ConfigError(what, where=place_of(line).where, remedy=remedy)
        return ConfigError(f"no YAML: {error.problem}", where=place_of(line).where, remedy=_DEFAULT_REMEDY)
    line = text.count("\n", 0, getattr(error, "position", 0)) + 1
    return ConfigError(
        "a control character, which YAML does not allow", where=place_of(line).where, remedy="remove that character"
    )


class _Builder:
    """Turns PyYAML's nodes into plain values, and notes the place of each."""

    def __init__(self, place_of: Callable[[int], Place]) -> None:
        self.places: dict[KeyPath, Place] = {}
        self._place_of = place_of
        self._open: set[int] = set()
        self._num_values = 0

    def build(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        """Return the value of `node`; `line` is that of its key, or its own in a list."""
        self._num_values += 1
        if self._num_values > MAX_VALUES or id(node) in self._open:
            raise self._error(line, path, "aliases that contain themselves or expand without bounds", "write it out")
        self._note(node, path, line)
        self._open.add(id(node))
        try:
            return self._value(node, path, line)
        finally:
            self._open.remove(id(node))

    def _note(self, node: yaml.Node, path: KeyPath, line: int) -> None:
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        place = self._place_of(line)
        self.places[path] = Place(where=place.where, line=place.line, text=node.value if plain else None)

    def _value(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, line)
        raise self._bad_tag(node, path, line)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _TAG + "merge":
                merged.append(value_node)
                continue
            key = self._key(key_node, path, line)
            if key in first_line:
                what = f"given twice; the first is in line {first_line[key]}"
                raise self._error(line, (*path, key), what, "keep one of the two")
            first_line[key] = line
            values[key] = self.build(value_node, (*path, key), line)
        for source in merged:
            self._merge(source, path, values)
        return values

    def _key(self, node: yaml.Node, path: KeyPath, line: int) -> str:
        if not isinstance(node, yaml.ScalarNode):
            remedy = "put text that begins with { or [ in quotes"
            raise self._error(line, path, "a list or mapping where a key is wanted", remedy)
        return str(node.value)

    def _merge(self, source: yaml.Node, path: KeyPath, values: dict[str, Any]) -> None:
        """Add what `<<` brings in, behind the keys that are there."""
        line = source.start_mark.line + 1
        for node in source.value if isinstance(source, yaml.SequenceNode) else [source]:
            if not isinstance(node, yaml.MappingNode):
                raise self._error(line, path, "<< needs a mapping", "write <<: *NAME, where &NAME marks a mapping")
            own_places = {key: place for key, place in self.places.items() if key[: len(path)] == path}
            for key, value in self.build(node, path, line).items():
                values.setdefault(key, value)
            self.places.update(own_places)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath, line: int) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if whole_characters(text) != text:
            raise self._error(line, path, "unpaired surrogate escape", "write the character itself, or both halves")
        if kind in ("str", "merge"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return {"true": True, "false": False}.get(text.lower(), text)
        if kind in ("int", "float"):
            return _number(text, kind)
        raise self._bad_tag(node, path, line)

    def _bad_tag(self, node: yaml.Node, path: KeyPath, line: int) -> ConfigError:
        tag = str(node.tag).replace(_TAG, "!!")
        return self._error(line, path, f"the tag {tag} is not allowed here", "write a plain value without a tag")

    def _error(self, line: int, path: KeyPath, what: str, remedy: str) -> ConfigError:
        where = self._place_of(line).where
        return ConfigError(what, where=f"{where}: {dotted(path)}" if path else where, remedy=remedy)


def _number(text: str, kind: str) -> int | float | str:
    """Read a number; what is none that a computer keeps (1e999, 5,000 digits) stays text and is refused as such."""
    try:
        number: int | float = int(text) if kind == "int" else float(text)
    except ValueError:
        return text
    return text if number in (float("inf"), float("-inf")) else number
