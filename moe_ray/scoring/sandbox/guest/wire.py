"""Plain values as bytes, between processes that do not trust each other.

Decoding builds only values of the types listed here; it never runs code that the other side chose, except where
`functions` is set, which only the player does with what the judge sent. Anything else crosses as a handle: a number
that stands for an object on the program's side. A subclass of a plain type crosses as the plain type.
"""

from __future__ import annotations

import marshal
import os
import struct
import sys
from importlib import import_module
from types import FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

LENGTH = struct.Struct("<I")
FLOAT = struct.Struct("<d")
MAX_FRAME_BYTES = 32 << 20

CONTAINERS: dict[type[Any], bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z", dict: b"d"}
BUILD: dict[bytes, Callable[[Any], Any]] = {tag: kind for kind, tag in CONTAINERS.items()}
OF_COLLECTIONS = {b"q": "deque", b"O": "OrderedDict", b"C": "Counter"}
"""Found only where that module, a slow import, is loaded: otherwise no instance can exist."""

REBUILT: dict[tuple[str, str], Callable[[Any], tuple[Any, ...]]] = {
    ("decimal", "Decimal"): lambda v: (str(v),),
    ("fractions", "Fraction"): lambda v: (v.numerator, v.denominator),
    ("datetime", "date"): lambda v: (v.year, v.month, v.day),
    ("datetime", "time"): lambda v: (v.hour, v.minute, v.second, v.microsecond),
    ("datetime", "datetime"): lambda v: (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond),
    ("datetime", "timedelta"): lambda v: (v.days, v.seconds, v.microseconds),
    ("array", "array"): lambda v: (v.typecode, v.tolist()),
    ("builtins", "range"): lambda v: (v.start, v.stop, v.step),
}
TYPES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range, set, str, tuple)
}


class WireError(Exception):
    """Bytes that mean no value, a frame that is too long, or a value that cannot cross."""


class TooLongError(WireError):
    """A frame above MAX_FRAME_BYTES."""


def no_handle(value: object) -> int:
    """Refuse to encode an object that is not plain data."""
    raise WireError(f"{type(value).__name__} is not plain data")


def encode(value: object, handle: Callable[[object], int] = no_handle) -> bytes:
    """Return `value` as bytes; `handle` names what is not plain data (or raises)."""
    out = bytearray()
    _encode(value, out, handle)
    return bytes(out)


def _encode(value: Any, out: bytearray, handle: Callable[[object], int]) -> None:
    if value is None or value is True or value is False:
        out += b"N" if value is None else b"T" if value else b"F"
        return
    scalar = _encode_scalar(value)
    if scalar is not None:
        out += scalar[0] + LENGTH.pack(len(scalar[1])) + scalar[1]
        return
    tag = _tag(value)
    if tag is None:
        _encode_other(value, out, handle)
    elif isinstance(value, dict):
        _encode_items(tag, [part for pair in dict.items(value) for part in pair], out, handle)
    else:
        _encode_items(tag, list(value), out, handle)


def _tag(value: Any) -> bytes | None:
    """Return the tag of a container, or None when it is none of those known."""
    known = CONTAINERS.get(type(value))
    if known is not None:
        return known
    collections = sys.modules.get("collections")
    if collections is not None:
        for tag, name in OF_COLLECTIONS.items():
            if isinstance(value, getattr(collections, name)):
                return tag
    return next((tag for kind, tag in CONTAINERS.items() if isinstance(value, kind)), None)


def _encode_scalar(value: Any) -> tuple[bytes, bytes] | None:
    if isinstance(value, int):
        return b"i", int.to_bytes(value, int.bit_length(value) // 8 + 1, "little", signed=True)
    if isinstance(value, float):
        return b"f", FLOAT.pack(value)
    if isinstance(value, str):
        return b"s", str.encode(value, "utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"b", bytes(value)
    if isinstance(value, bytearray):
        return b"a", bytes(value)
    if isinstance(value, complex):
        return b"c", FLOAT.pack(value.real) + FLOAT.pack(value.imag)
    return None


def _encode_items(tag: bytes, items: list[Any], out: bytearray, handle: Callable[[object], int]) -> None:
    out += tag + LENGTH.pack(len(items))
    for item in items:
        _encode(item, out, handle)


def _encode_other(value: Any, out: bytearray, handle: Callable[[object], int]) -> None:
    kind = type(value)
    parts = REBUILT.get((kind.__module__, kind.__qualname__))
    if parts is not None:
        _encode_items(b"R", [kind.__module__, kind.__qualname__, parts(value)], out, handle)
    elif kind is type and any(value is known for known in TYPES.values()):
        _encode_items(b"B", [value.__name__], out, handle)
    elif kind is ModuleType:
        _encode_items(b"M", [value.__name__], out, handle)
    else:
        out += b"H" + LENGTH.pack(handle(value))


def encode_function(function: FunctionType) -> bytes:
    """Return a function that closes over nothing as bytes, for the player: the judge's lambdas."""
    if function.__closure__:
        raise WireError("a function with a closure cannot be handed to the program")
    return marshal.dumps(function.__code__)


def decode(data: bytes, handle: Callable[[int], object]) -> Any:
    """Return the value that `data` stands for; `handle` gives the object of a number. Raises `WireError`."""
    try:
        value, end = _decode(data, 0, handle)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, OverflowError) as error:
        raise WireError(f"malformed value: {error}") from error
    if end != len(data):
        raise WireError("malformed value: bytes left over")
    return value


def _decode(data: bytes, at: int, handle: Callable[[int], object]) -> tuple[Any, int]:
    tag = data[at : at + 1]
    if tag in (b"N", b"T", b"F"):
        return {b"N": None, b"T": True, b"F": False}[tag], at + 1
    (count,) = LENGTH.unpack_from(data, at + 1)
    at += 1 + LENGTH.size
    if tag == b"H":
        return handle(count), at
    if tag in b"ifsbac":
        return _decode_scalar(tag, data[at : at + count]), at + count
    items = []
    for _ in range(count):
        item, at = _decode(data, at, handle)
        items.append(item)
    return _build(tag, items), at


def _decode_scalar(tag: bytes, raw: bytes) -> Any:
    if tag == b"i":
        return int.from_bytes(raw, "little", signed=True)
    if tag == b"f":
        return FLOAT.unpack(raw)[0]
    if tag == b"s":
        return raw.decode("utf-8", "surrogatepass")
    if tag == b"c":
        return complex(FLOAT.unpack_from(raw)[0], FLOAT.unpack_from(raw, FLOAT.size)[0])
    return raw if tag == b"b" else bytearray(raw)


def _build(tag: bytes, items: list[Any]) -> Any:
    if tag in OF_COLLECTIONS:
        kind = getattr(import_module("collections"), OF_COLLECTIONS[tag])
        return kind(items if tag == b"q" else _pairs(items))
    if tag == b"d":
        return _pairs(items)
    if tag == b"R":
        module, name, parts = items
        if (module, name) not in REBUILT:
            raise WireError(f"{module}.{name} is not plain data")
        return getattr(import_module(module), name)(*parts)
    if tag == b"B":
        return TYPES[items[0]]
    if tag == b"M":
        if items[0].partition(".")[0] not in sys.stdlib_module_names:
            raise WireError(f"module {items[0]} is not of the standard library")
        return import_module(items[0])
    return BUILD[tag](items)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def send(fd: int, data: bytes) -> None:
    """Write one frame."""
    if len(data) > MAX_FRAME_BYTES:
        raise TooLongError(f"a value of {len(data)} bytes is above {MAX_FRAME_BYTES}")
    view = memoryview(LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> bytes:
    """Read one frame. Raises `EOFError` when the other side is gone."""
    (length,) = LENGTH.unpack(_read_exactly(fd, LENGTH.size))
    if length > MAX_FRAME_BYTES:
        raise TooLongError(f"a value of {length} bytes is above {MAX_FRAME_BYTES}")
    return _read_exactly(fd, length)


def _read_exactly(fd: int, count: int) -> bytes:
    chunks: list[bytes] = []
    while count:
        chunk = os.read(fd, min(count, 1 << 20))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def frames(values: Iterable[object]) -> bytes:
    """Return `values` as consecutive frames."""
    return b"".join(LENGTH.pack(len(data)) + data for data in map(encode, values))
