"""Options that override the file: `--set models.mediphi.dtype=bfloat16`."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from moe_ray.config.dump import CoreDumper
from moe_ray.config.tree import Document, KeyPath, Place, dotted, parse_yaml
from moe_ray.errors import ConfigError

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

    Raises `ConfigError` when an override is no KEY=VALUE, or names a key below something that has none.
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
        what = f"{parent} is a list of {len(holder)}, and {part} is no place in it"
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
