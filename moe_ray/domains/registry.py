"""Names for things that an experiment file may ask for: tasks here, graders in `scoring`."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from moe_ray.domains.base import Task
from moe_ray.domains.own_code import import_named
from moe_ray.errors import ConfigError, first_line

EntryT = TypeVar("EntryT")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a remedy for the unknown `name`: the nearest of `known`, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}? known: {', '.join(names)}" if near else f"known: {', '.join(names)}"


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
            raise ConfigError(f"unknown {self.kind} {name!r}", where=where, remedy=suggestion(name, self._entries))
        return self._entries[name]


# Where each task's class is. Kept as text, so that naming a task imports only that task.
TASKS: Registry[str] = Registry("task")
for _name, _place in {
    "pubmedqa": "moe_ray.domains.biomedical:PubMedQA",
    "law_stackexchange": "moe_ray.domains.legal:LawStackExchange",
    "mbpp": "moe_ray.domains.code:MBPP",
    "coding": "moe_ray.domains.texts:Coding",
    "math": "moe_ray.domains.texts:Math",
    "reasoning": "moe_ray.domains.texts:Reasoning",
    "decision": "moe_ray.domains.tables:DecisionTask",
    "free_text": "moe_ray.domains.tables:FreeTextTask",
    "code": "moe_ray.domains.tables:CodeTask",
}.items():
    TASKS.add(_name, _place)


def task_class(task: str, *, where: str) -> type[Task]:
    """Return the class of `task`: a registered name, or `module:Class`. Raises `ConfigError` when there is none."""
    loaded = import_object(task, where=where) if ":" in task else _shipped(TASKS.get(task, where=where))
    if not (isinstance(loaded, type) and hasattr(loaded, "examples") and hasattr(loaded, "default_graders")):
        raise ConfigError(
            f"{task} is no task: it must be a class with default_graders and examples(records)",
            where=where,
            remedy="see moe_ray.domains.base.Task",
        )
    return loaded


def _shipped(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def import_object(spec: str, *, where: str) -> Any:
    """Import what `module:Name` names: installed, or in the folder that `importable` made known.

    Raises `ConfigError` saying which half is wrong, and why.
    """
    module_name, _, attribute = spec.partition(":")
    try:
        module = import_named(module_name)
    except ConfigError as error:
        error.where = where
        raise
    except Exception as error:
        # A user's own module raises anything; the cause is kept.
        raise ConfigError(
            f"cannot import {module_name!r} of {spec!r}: {first_line(error)}",
            where=where,
            remedy="write module:Class; the module lies beside the experiment file or is installed",
        ) from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{module_name} has no {attribute!r}", where=where, remedy=suggestion(attribute, public))
    return getattr(module, attribute)
