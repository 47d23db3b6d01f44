"""Entries by name: tasks, graders."""

from typing import Generic, TypeVar

from moe_ray.errors import ConfigError
from moe_ray.suggestions import choice_of

EntryT = TypeVar("EntryT")


class Registry(Generic[EntryT]):
    """Entries by name. A name is taken once; an unknown one is answered with the nearest."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, EntryT] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._entries))

    def add(self, name: str, entry: EntryT) -> None:
        """Take `name` for `entry`; raises `ConfigError` when another entry has it."""
        if self._entries.get(name, entry) != entry:
            raise ConfigError(
                f"the {self.kind} name {name} is taken by {self._entries[name]!r}",
                remedy=f"register {entry!r} under another name",
            )
        self._entries[name] = entry

    def get(self, name: str, *, where: str) -> EntryT:
        """Return the entry called `name`; raises `ConfigError` with a suggestion when there is none."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}", where=where, remedy=choice_of(name, self._entries))
        return self._entries[name]
