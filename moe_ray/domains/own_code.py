"""A user's own code beside an experiment file: a named module, and its siblings that it imports itself.

The folder never enters `sys.path`. Only a module that the experiment names (`module:Class`) is looked for there, and
afterwards what code in that folder imports and what is installed nowhere. An installed library that tries an optional
import therefore never finds a file of that name beside the experiment.
"""

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

from moe_ray.errors import ConfigError

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
