"""The judge: runs the tests. It holds the expected values; the program's names are stand-ins here."""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from types import BuiltinFunctionType, CodeType, FunctionType

from moe_ray.scoring.sandbox.guest import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX_DETAIL_CHARS = 200


class ProgramError(Exception):
    """The program raised something that has no counterpart among the builtin exceptions."""


class PlayerLostError(Exception):
    """The program's process is gone, or speaks nonsense."""


class Link:
    """Asks the player, one request at a time."""

    def __init__(self, requests: int, replies: int) -> None:
        self.requests = requests
        self.replies = replies

    def ask(self, operation: str, *args: object) -> Any:
        """Return what the player answers, as plain data and stand-ins; raise what the program raised."""
        try:
            wire.send(self.requests, wire.encode((operation, *args), self._number))
            kind, *reply = wire.decode(wire.receive(self.replies), self._stand_in)
        except (EOFError, BrokenPipeError) as error:
            raise PlayerLostError("the program's process ended early") from error
        except RecursionError as error:
            raise ProgramError("a value is nested too deeply") from error
        if kind == "value" and len(reply) == 1:
            return reply[0]
        if kind == "raised" and len(reply) == 3:
            raise self._error(*map(str, reply))
        raise PlayerLostError("the program's process spoke nonsense")

    def _number(self, value: object) -> int:
        if isinstance(value, FunctionType):
            value = self.ask("function", wire.encode_function(value))
        elif isinstance(value, BuiltinFunctionType) and value.__module__ == "builtins":
            value = self.ask("builtin", value.__name__)
        if not isinstance(value, StandIn):
            raise wire.WireError(f"a test hands {type(value).__name__} to the program, which is not plain data")
        return int(object.__getattribute__(value, "_number"))

    def _stand_in(self, number: int) -> StandIn:
        return StandIn(self, number)

    @staticmethod
    def _error(builtin: str, name: str, message: str) -> Exception:
        kind = getattr(builtins, builtin, None)
        if name == builtin and isinstance(kind, type) and issubclass(kind, Exception):
            try:
                error = kind(message)
            except TypeError:  # UnicodeDecodeError and the like want more arguments
                return ProgramError(f"{name}: {message}")
            error.__notes__ = ["raised by the program"]
            return error
        return ProgramError(f"{name}: {message}" if message else name)


class StandIn:
    """An object of the program's: a function, a class, an instance. It is never equal to plain data, and offers no
    arithmetic or order, because the program would then see what it is compared with."""

    __slots__ = ("_link", "_number")

    def __init__(self, link: Link, number: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result, changed = _ask(self, "call", list(args), kwargs)
        for position, value in changed.items():
            _replace(args[position], value)
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "setitem", key, value)

    def __len__(self) -> int:
        return int(_ask(self, "len"))

    def __iter__(self) -> Iterator[Any]:
        return iter(list(_ask(self, "iter")))

    def __next__(self) -> Any:
        return _ask(self, "next")

    def __contains__(self, item: Any) -> bool:
        return any(item == own for own in self)

    def __bool__(self) -> bool:
        return _ask(self, "bool") is True

    def __str__(self) -> str:
        return str.__str__(_ask(self, "str"))

    def __repr__(self) -> str:
        return str.__str__(_ask(self, "repr"))

    def __float__(self) -> float:
        return float(_ask(self, "float"))

    def __int__(self) -> int:
        return int(_ask(self, "int"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StandIn) and _ask(self, "eq", other) is True

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_number"))

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, StandIn) and _ask(value, "isinstance", self) is True


def _ask(stand_in: StandIn, operation: str, *args: object) -> Any:
    return object.__getattribute__(stand_in, "_link").ask(operation, stand_in, *args)


def _replace(target: Any, value: Any) -> None:
    """Give `target` the content of `value`: what the program did to an argument in place."""
    if isinstance(target, list | bytearray) and isinstance(value, list | bytearray):
        target[:] = value
    elif isinstance(target, dict | set) and isinstance(value, dict | set):
        target.clear()
        target.update(value)


def judge(job: dict[str, Any], link: Link) -> tuple[str, str]:
    """Run the tests of `job` against the program behind `link`; return the outcome and what happened."""
    stage = "the tests"
    try:
        setup = compile(job["setup"], "<setup>", "exec")
        tests = [compile(test, f"<test {index}>", "exec") for index, test in enumerate(job["tests"], 1)]
        names = sorted(set().union(*(_names(code) for code in (setup, *tests))))
        stage = "the program"
        found = link.ask("load", _imports(job["setup"]), job["code"], names)
        stage = "the setup"
        _take_back_modules(found, job["tests"])
        own = {name: value for name, value in found.items() if not hasattr(builtins, name)}
        scope: dict[str, Any] = {"__name__": "tests", **own}
        exec(setup, scope)
        for index, test in enumerate(tests):
            stage = f"test {index + 1} of {len(tests)}: {job['tests'][index].strip()}"
            _run_test(test, scope, own, found)
    except BaseException as error:  # noqa: BLE001  (a test or the program may raise anything; it becomes the verdict)
        return _verdict(error, stage)
    return "passed", ""


def _run_test(test: CodeType, scope: dict[str, Any], own: dict[str, Any], found: dict[str, Any]) -> None:
    """Run one test. A program that redefines a builtin is asked for it only by a test of nothing else of its own,
    so that it can be named `sum` where the task says so, and cannot patch `abs` under the tests' feet."""
    shadows = {} if own.keys() & _names(test) else {name: found[name] for name in found if name not in own}
    exec(test, {**scope, **shadows} if shadows else scope)


def _take_back_modules(found: dict[str, Any], tests: list[str]) -> None:
    """Put the library's own modules for what a program calls by their names, where a test reads an attribute of them:
    else `math.isclose(f(), 3.14)` would ask the program."""
    doubtful = [name for name in found if name in sys.stdlib_module_names and isinstance(found[name], StandIn)]
    if not doubtful:
        return
    import ast

    nodes = [node for test in tests for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Attribute)]
    read = {node.value.id for node in nodes if isinstance(node.value, ast.Name)}
    for name in read.intersection(doubtful):
        found[name] = import_module(name)


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _imports(setup: str) -> str:
    """Return the import statements of `setup`: all of it that the program is shown."""
    if "import" not in setup:
        return ""
    import ast

    statements = [node for node in ast.parse(setup).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(ast.Module(body=list(statements), type_ignores=[]))


def _verdict(error: BaseException, stage: str) -> tuple[str, str]:
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    by_program = getattr(error, "__notes__", None) is not None
    detail = f"{message} ({stage})".replace("\n", " ")[:MAX_DETAIL_CHARS]
    if isinstance(error, MemoryError):
        return "memory", detail
    if isinstance(error, wire.TooLongError):
        return "output_limit", detail
    if isinstance(error, AssertionError) and not by_program:
        return "failed", detail
    return ("lost" if isinstance(error, PlayerLostError) else "error"), detail
