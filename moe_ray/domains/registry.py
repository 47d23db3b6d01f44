"""Names for things that an experiment file may ask for: tasks here, graders in `scoring`."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_ray.domains.example import Task
from moe_ray.errors import ConfigError, first_line
from moe_ray.registry import Registry
from moe_ray.suggestions import choice_of

_folder: ContextVar[str | None] = ContextVar("folder of own code", default=None)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let `import_named` find modules in `folder` for as long as the context lasts."""
    token = _folder.set(str(folder.resolve()))
    try:
        yield
    finally:
        _folder.reset(token)


def import_named(name: str) -> ModuleType:
    """Import the module that an experiment names: an installed one, or one in the folder of `importable`.

    Raises `ConfigError` when the folder's module has the name of another one that is installed, and whatever the
    module itself raises.
    """
    folder, top = _folder.get(), name.partition(".")[0]
    beside = None if folder is None else PathFinder.find_spec(top, [folder])
    if folder is None or beside is None:
        return importlib.import_module(name)
    _SIBLINGS.forget_others(folder)
    _require_alone(top, beside)
    with _SIBLINGS.serving(top, folder):
        return importlib.import_module(name)


def _require_alone(name: str, beside: ModuleSpec) -> None:
    """Refuse a file that has the name of an installed or standard module: neither of them can be meant for sure."""
    installed = find_spec(name)
    if beside.origin is None or installed is None or _is_same_file(installed.origin, beside.origin):
        return
    raise ConfigError(
        f"{beside.origin} has the name of the module {name} that is installed at {installed.origin}",
        remedy="rename the file beside the experiment",
    )


def _is_same_file(one: str | None, other: str) -> bool:
    return one is not None and Path(one).resolve() == Path(other).resolve()


class _Siblings(MetaPathFinder):
    """Finds, after all other finders, a named module in its folder and what such modules import from there."""

    def __init__(self) -> None:
        self._folder_of: dict[str, str] = {}  # by top-level module

    @contextmanager
    def serving(self, name: str, folder: str) -> Iterator[None]:
        """Let the top-level module `name` be found in `folder`; it is forgotten again where that fails."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        is_new = name not in sys.modules
        self._folder_of[name] = folder
        try:
            yield
        except BaseException:
            if is_new:
                self._forget(name)
            raise

    def forget_others(self, folder: str) -> None:
        """Forget the modules of other folders: this folder's modules may have their names."""
        for name in [name for name, own in self._folder_of.items() if own != folder]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        del self._folder_of[name]
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            del sys.modules[module]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol has it
    ) -> ModuleSpec | None:
        """Find a top-level module for code of a known folder; see `importlib.abc.MetaPathFinder`."""
        if path is not None:
            return None
        folder = self._folder_of.get(fullname) or self._folder_of.get(_importing_module())
        spec = None if folder is None else PathFinder.find_spec(fullname, [folder])
        if folder is not None and spec is not None:
            self._folder_of[fullname] = folder
        return spec


def _importing_module() -> str:
    """Return the top-level module whose code imports, past the frames of the import system and of this file."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != __name__ and name.partition(".")[0] != "importlib":
            return name.partition(".")[0]
        frame = frame.f_back
    return ""


_SIBLINGS = _Siblings()


# Where each task's class is. Kept as text, so that naming a task imports only that task.
TASKS: Registry[str] = Registry("task")
for _name, _place in {
    "pubmedqa": "moe_ray.domains.pubmedqa:PubMedQA",
    "law_stackexchange": "moe_ray.domains.law_stackexchange:LawStackExchange",
    "mbpp": "moe_ray.domains.mbpp:MBPP",
    "coding": "moe_ray.domains.instruction_sets:Coding",
    "math": "moe_ray.domains.instruction_sets:Math",
    "reasoning": "moe_ray.domains.instruction_sets:Reasoning",
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
            f"{task} is not a task: it must be a class with default_graders and examples(records)",
            where=where,
            remedy="see moe_ray.domains.example.Task",
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
        raise ConfigError(f"{module_name} has no {attribute!r}", where=where, remedy=choice_of(attribute, public))
    return getattr(module, attribute)
