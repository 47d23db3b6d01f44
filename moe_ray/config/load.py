"""Load an experiment file, or raise one error that names every mistake with its line."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from moe_ray.config.checks import cross_problems
from moe_ray.config.dump import CoreDumper
from moe_ray.config.paths import resolve
from moe_ray.config.problems import config_error, key_path, problems_of
from moe_ray.config.schema import ExperimentConfig
from moe_ray.config.section import Section
from moe_ray.config.tree import Document, KeyPath, Place, dotted, parse_yaml
from moe_ray.errors import ConfigError
from moe_ray.files import JsonError, parse_json, read_bytes

_SEGMENT = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^.="']+?))\s*([.=])""")

MAX_SHOWN = 80


def override(path: Sequence[str], value: Any) -> str:
    """Spell an override, for options that stand for one key: `--model PATH` is `models.NAME.path=PATH`."""
    text = (
        yaml.dump(value, Dumper=CoreDumper, default_flow_style=True, allow_unicode=True, width=10**9)
        .removesuffix("...\n")
        .strip()
    )
    return f"{dotted(tuple(path))}={text}"


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Change `document` as the overrides say, in their order; missing sections are made on the way.

    Raises `ConfigError` if an override is not KEY=VALUE, or names a key below a value that has no keys.
    """
    for text in overrides:
        shown = f"--set {text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + '...'}"
        key, value_text = _split(text, shown)
        place = Place(where=shown, option_key=key)
        value = parse_yaml(value_text, lambda _line, place=place: place)  # type: ignore[misc]
        path = _set(document, key, value.value, place)
        for old in [old for old in document.places if old[: len(path)] == path]:
            del document.places[old]
        for inner_path, inner in value.places.items():
            document.places[(*path, *inner_path)] = Place(where=shown, text=inner.text, option_key=path)


def _split(text: str, shown: str) -> tuple[KeyPath, str]:
    parts: list[str] = []
    position = 0
    while match := _SEGMENT.match(text, position):
        parts.append(next(group for group in match.groups()[:3] if group is not None))
        position = match.end()
        if match.group(4) == "=":
            return tuple(parts), text[position:]
    raise ConfigError(
        "no KEY=VALUE", where=shown, remedy="write --set decoding.max_new_tokens=64; a name with dots goes in quotes"
    )


def _set(document: Document, key: KeyPath, value: Any, place: Place) -> KeyPath:
    """Put `value` at `key` and return the key with its list positions as numbers."""
    holder = document.value
    path: KeyPath = ()
    for part in key[:-1]:
        path = (*path, _position(holder, (*path, part), place))
        if isinstance(holder, dict) and holder.get(part) is None:
            holder[path[-1]] = {}
            document.places[path] = place
        holder = holder[path[-1]]
    path = (*path, _position(holder, (*path, key[-1]), place))
    holder[path[-1]] = value
    return path


def _position(holder: Any, path: KeyPath, place: Place) -> str | int:
    """Return the last part of `path` as `holder` takes it; raises `ConfigError` where it takes none."""
    part, parent = str(path[-1]), dotted(path[:-1])
    if isinstance(holder, list):
        if part.isdecimal() and int(part) < len(holder):
            return int(part)
        what = f"{parent} is a list of {len(holder)}, and {part} is not an index of it"
        raise ConfigError(
            what, where=place.where, remedy=f"places count from 0; or give the whole list: {parent}=[...]"
        )
    if not isinstance(holder, dict):
        what = f"{parent} is a single value and has no key {part}"
        raise ConfigError(what, where=place.where, remedy=f"set {parent} itself")
    with_dots = [name for name in holder if part not in holder and name.startswith(f"{part}.")]
    if with_dots:
        right = dotted((*path[:-1], with_dots[0]))
        raise ConfigError(
            f"{dotted(path)} is not in the file", where=place.where, remedy=f"put a name with dots in quotes: {right}"
        )
    return part


EXPERIMENT_SUFFIXES = (".yaml", ".yml")
# Far beyond any experiment; the parser takes seconds for a megabyte.
MAX_EXPERIMENT_BYTES = 1 << 20
MAX_DEPTH = 64
GIVEN = "experiment"  # where messages place an experiment that comes from no file

SectionT = TypeVar("SectionT", bound=Section)

_WORD_FOR_BOOL = {"yes": True, "on": True, "no": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedExperiment:
    """An experiment as it will run: `config` with overrides applied and local paths made absolute.

    `base_dir` is the file's folder, to which the paths in it are relative; `text` is the file as it was read;
    `places` says for each key, as messages spell it, in which line or option it was written.
    """

    config: ExperimentConfig
    path: Path
    base_dir: Path
    text: str
    places: Mapping[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Return "experiment.yaml:12: KEY" for a key, or for the nearest section around it that was written."""
        section = key
        while section not in self.places and "." in section:
            section = section.rpartition(".")[0]
        return f"{self.places[section]}: {key}" if section in self.places else key


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> LoadedExperiment:
    """Read an experiment file, apply `KEY=VALUE` overrides, and check all of it without touching data or models.

    Paths in the file are relative to its folder, paths in an override to the current folder.
    Raises `ConfigError` with every problem that was found.
    """
    text = _read(path)
    return _loaded(_parse(text, str(path)), path, overrides, text=text, base_dir=path.absolute().parent)


def experiment_of(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> LoadedExperiment:
    """Check an experiment that is given as the mapping that its file would hold, as `load_experiment` does.

    Paths are relative to the current folder; values may be `pathlib` paths. Raises `ConfigError`.
    """
    try:
        text = json.dumps(values, default=os.fspath, indent=2)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"holds what a file cannot: {error}", where=GIVEN, remedy="use texts, numbers, lists and mappings"
        ) from error
    document = Document(value=parse_json(text), places={(): Place(where=GIVEN)})
    return _loaded(document, Path(GIVEN), overrides, text=text, base_dir=Path.cwd())


def _loaded(document: Document, path: Path, overrides: Sequence[str], *, text: str, base_dir: Path) -> LoadedExperiment:
    apply_overrides(document, overrides)
    config = _validate(document, str(path), ExperimentConfig)
    if problems := cross_problems(config):
        raise config_error(problems, document, str(path))

    def base_of(key: KeyPath) -> Path:
        return Path.cwd() if document.place(key).line is None else base_dir

    places = {dotted(key): place.where for key, place in document.places.items() if key}
    return LoadedExperiment(config=resolve(config, base_of), path=path, base_dir=base_dir, text=text, places=places)


def _parse_yaml(text: str, source: str) -> Document:
    return parse_yaml(text, lambda line: Place(where=f"{source}:{line}", line=line))


def _parse(text: str, source: str) -> Document:
    document = _parse_yaml(text, source)
    if document.value is None:
        raise ConfigError("the file is empty", where=source, remedy="moe-ray init FILE writes a commented starter file")
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        raise ConfigError(
            f"holds {kind} where an experiment's keys are wanted",
            where=f"{source}:1",
            remedy="begin with `name: NAME`, then `models:` and `domains:`; moe-ray init writes a starter file",
        )
    return document


def parse_section(text: str, source: str, kind: type[SectionT], overrides: Sequence[str] = ()) -> SectionT:
    """Read one section that is a file of its own: YAML, or JSON where `source`, its path, ends in .json.

    `overrides` are KEY=VALUE. Raises `ConfigError` with every problem that was found, as `load_experiment` does.
    """
    document = _parse_json(text, source) if source.endswith(".json") else _parse_yaml(text, source)
    if not isinstance(document.value, dict):
        raise ConfigError("holds no keys", where=source, remedy=f"keys are {', '.join(kind.model_fields)}")
    apply_overrides(document, overrides)
    return _validate(document, source, kind)


def _parse_json(text: str, source: str) -> Document:
    try:
        return Document(value=parse_json(text), places={(): Place(where=source)})
    except JsonError as error:
        raise ConfigError(
            f"not JSON: {error}", where=f"{source}:{error.line}", remedy="check quotes, commas and brackets there"
        ) from error


def _validate(document: Document, source: str, kind: type[SectionT]) -> SectionT:
    """Validate strictly, after giving plain scalars the type that the schema wants of them."""
    _require_shallow(document.value, source)
    try:
        return _model(document, kind)
    except ValidationError as error:
        if not _coerce(error, document):
            raise config_error(problems_of(error, document, kind), document, source) from None
    try:
        return _model(document, kind)
    except ValidationError as error:
        raise config_error(problems_of(error, document, kind), document, source) from None


def _require_shallow(value: object, source: str) -> None:
    """Refuse what is nested beyond the depth that the validator reads."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ConfigError(
                f"nested more than {MAX_DEPTH} levels deep", where=source, remedy="check brackets and indentation"
            )
        level = [item for one in level for item in _items(one)]


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _model(document: Document, kind: type[SectionT]) -> SectionT:
    """Validate as JSON, where strictness takes lists for tuples and text for paths, but no "256" for a number."""
    return kind.model_validate_json(json.dumps(document.value), strict=True)


def _coerce(error: ValidationError, document: Document) -> bool:
    """Read plain scalars as the schema wants them, and empty sections as sections; say whether any changed.

    `choices: [true, 3]` and `revision: 0123` are texts as they are spelled; `likelihood: no` is false.
    """
    changed = False
    for detail in error.errors(include_url=False):
        path = key_path(detail, document)
        text, given = document.place(path).text, detail["input"]
        if detail["type"] in ("string_type", "path_type") and text is not None and given is not None:
            changed |= _replace(document.value, path, text)
        elif detail["type"] == "bool_type" and text is not None and text.lower() in _WORD_FOR_BOOL:
            changed |= _replace(document.value, path, _WORD_FOR_BOOL[text.lower()])
        elif detail["type"] in ("model_type", "dict_type") and given is None:
            changed |= _replace(document.value, path, {})
    return changed


def _replace(value: Any, path: KeyPath, new: object) -> bool:
    for part in path[:-1]:
        value = value[part]
    if isinstance(value[path[-1]], dict | list):
        return False
    value[path[-1]] = new
    return True


def _read(path: Path) -> str:
    try:
        return read_bytes(path, max_bytes=MAX_EXPERIMENT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"not UTF-8: byte 0x{error.object[error.start]:02x}",
            where=f"{path}:{line}",
            remedy="save the file as UTF-8",
        ) from error
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=str(path), remedy=_neighbours(path)) from error
    except IsADirectoryError as error:
        remedy = _neighbours(path / "experiment.yaml")
        raise ConfigError("a folder, where an experiment file is wanted", where=str(path), remedy=remedy) from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path and its permissions"
        ) from error


def _neighbours(path: Path) -> str:
    """Say which experiment files are beside a missing one."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix in EXPERIMENT_SUFFIXES)
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6) or names[:3]
    if not near:
        return "moe-ray init FILE writes a commented starter file"
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?"
