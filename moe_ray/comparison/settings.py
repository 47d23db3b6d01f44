"""How the settings of two runs differ: one line for each change, not one for each place that shows it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from moe_ray.comparison.records import Summary
from moe_ray.fingerprint import canonical_json
from moe_ray.store.records import StoredRecord

ABSENT = "(absent)"
RUN_SETTINGS = ("moe_ray_version", "baseline", "experts", "identity", "models", "domains", "prompts")
ROUTER_SETTINGS = ("kind", "fingerprint", "threshold")
MAX_SIBLINGS = 6
MAX_NAMED = 3
MAX_VALUE_CHARS = 120
CHARS_BEFORE = 20


class Change(StoredRecord):
    """A setting that the runs do not share. Values are JSON texts, cut to where they differ, or "(absent)".

    `also` are the other keys of the same name that changed from the same value to the same value.
    """

    key: str
    first: str
    second: str
    also: list[str]


def run_changes(a: Summary, b: Summary) -> list[Change]:
    """Settings that differ, by dotted key. What the identity repeats of models and domains is not repeated."""
    same: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for key, first, second in _differences(_settings(a), _settings(b), ""):
        same[key.rpartition(".")[2], first, second].append(key)
    found = []
    for (_, first, second), keys in same.items():
        key, *also = sorted(keys, key=lambda one: (one.startswith("identity."), one))
        found.append(Change(key=key, first=_cut(first, second), second=_cut(second, first), also=also))
    return sorted(found, key=lambda change: change.key)


def _settings(summary: Summary) -> dict[str, Any]:
    settings = {part: getattr(summary.run, part) for part in RUN_SETTINGS}
    if summary.routing is None:
        return settings
    about = summary.routing.router
    return settings | {"router": {part: about[part] for part in ROUTER_SETTINGS if part in about}}


def _differences(first: Any, second: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Key, first and second value of what differs; many differences in one mapping are one, with their number."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        if first != second:
            yield key, canonical_json(first), canonical_json(second)
        return
    names = sorted({*first, *second})
    differ = [name for name in names if name not in first or name not in second or first[name] != second[name]]
    if len(differ) > MAX_SIBLINGS and not any(
        isinstance(one.get(n), Mapping) for one in (first, second) for n in differ
    ):
        shown = ", ".join(differ[:MAX_NAMED])
        yield key, f"{len(differ)} of {len(names)} entries differ", f"{shown} and {len(differ) - MAX_NAMED} more"
        return
    for name in differ:
        place = f"{key}.{name}" if key else str(name)
        if name in first and name in second:
            yield from _differences(first[name], second[name], place)
        else:
            yield place, _told(first, name), _told(second, name)


def _told(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return ABSENT
    value = settings[name]
    return f"{len(value)} entries" if isinstance(value, Mapping) and value else canonical_json(value)


def _cut(text: str, other: str) -> str:
    """A long text from shortly before the place where the two part."""
    if len(text) <= MAX_VALUE_CHARS:
        return text
    parts = (at for at, (one, two) in enumerate(zip(text, other, strict=False)) if one != two)
    start = max(0, min(next(parts, len(other)), len(text)) - CHARS_BEFORE)
    end = start + MAX_VALUE_CHARS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
