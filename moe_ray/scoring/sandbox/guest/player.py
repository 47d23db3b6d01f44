"""The player: runs the generated program, and calls into it when the judge asks. Nothing that it says is trusted
beyond the values it returns."""

from __future__ import annotations

import builtins
import marshal
import operator
import sys
from types import FunctionType, ModuleType

from moe_ray.scoring.sandbox.guest import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROGRAM_NAME = "program"
MAX_MESSAGE_CHARS = 300
MAX_ITEMS = 1_000_000
MUTABLE = (list, dict, set, bytearray)


def _take(value: Any) -> list[Any]:
    items = []
    for item in value:
        items.append(item)
        if len(items) > MAX_ITEMS:
            raise MemoryError(f"an iterator gives more than {MAX_ITEMS} items")
    return items


OPERATIONS: dict[str, Callable[..., Any]] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "len": len,
    "iter": _take,
    "next": next,
    "bool": bool,
    "str": str,
    "repr": repr,
    "float": float,
    "int": int,
    "eq": operator.eq,
    "isinstance": isinstance,
}


class Player:
    """One program, loaded, and the objects of it that the judge holds handles of."""

    def __init__(self) -> None:
        self.module = ModuleType(PROGRAM_NAME)
        self.objects: list[object] = []
        sys.modules[PROGRAM_NAME] = self.module

    def handle(self, value: object) -> int:
        """Keep `value` and return the number that stands for it."""
        self.objects.append(value)
        return len(self.objects) - 1

    def load(self, imports: str, code: str, names: list[str]) -> dict[str, object]:
        """Run the program; return those of `names` that it defines."""
        scope = self.module.__dict__
        exec(compile(imports, "<imports>", "exec"), scope)
        exec(compile(code, "<program>", "exec"), scope)
        return {name: scope[name] for name in names if name in scope and not name.startswith("__")}

    def call(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[object, dict[int, object]]:
        """Call `function`; also return those of `args`, by position, that it changed in place."""
        before = {i: wire.encode(arg, self.handle) for i, arg in enumerate(args) if isinstance(arg, MUTABLE)}
        result = function(*args, **kwargs)
        return result, {i: args[i] for i, was in before.items() if wire.encode(args[i], self.handle) != was}

    def function(self, code: bytes) -> object:
        """Make a function that the judge handed over."""
        return FunctionType(marshal.loads(code), self.module.__dict__)

    def answer(self, request: bytes) -> bytes:
        """Do what one request says and return the reply: a value, or what was raised."""
        operation, *args = wire.decode(request, self.objects.__getitem__)
        own: dict[str, Callable[..., Any]] = {
            "load": self.load,
            "call": self.call,
            "function": self.function,
            "builtin": _builtin,
        }
        known = {**own, **OPERATIONS}
        try:
            value = known[operation](*args)
            return wire.encode(("value", value), self.handle)
        except BaseException as error:  # noqa: BLE001  (the program may raise anything, SystemExit too)
            return wire.encode(("raised", _builtin_kind(error), type(error).__name__, _message(error)))


def _builtin(name: str) -> object:
    return getattr(builtins, name)


def _builtin_kind(error: BaseException) -> str:
    """Return the name of the nearest class of `error` that every interpreter has."""
    for kind in type(error).__mro__:
        if kind.__module__ == "builtins":
            return kind.__name__
    return "Exception"


def _message(error: BaseException) -> str:
    try:
        return str(error)[:MAX_MESSAGE_CHARS]
    except BaseException:  # noqa: BLE001  (the program's own __str__)
        return ""


def play(requests: int, replies: int) -> None:
    """Answer requests until the judge is gone."""
    player = Player()
    while True:
        try:
            request = wire.receive(requests)
        except EOFError:
            return
        wire.send(replies, player.answer(request))
