"""Fingerprints: one SHA-256 over canonical JSON, so that equal content has equal names everywhere."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

_LEAF_TYPES = (str, int, bool, type(None))

FILE_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> str:
    """Return the one JSON text that stands for `value`.

    Mappings are sorted by key; tuples and lists are the same thing; floats must be finite and are written
    by `repr` (1.0 and 1 differ). Anything else raises `TypeError`, so that no object is ever fingerprinted
    by its address or by a `repr` that may change.
    """
    _require_canonical(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _require_canonical(value: object, path: str) -> None:
    if isinstance(value, _LEAF_TYPES):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{path}: {value!r} has no canonical JSON")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path}: key {key!r} is not a string")
            _require_canonical(item, f"{path}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        for index, item in enumerate(value):
            _require_canonical(item, f"{path}[{index}]")
    else:
        raise TypeError(f"{path}: {type(value).__name__} has no canonical JSON")


def fingerprint(value: object, *, num_hex: int = 32) -> str:
    """Return the first `num_hex` hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:num_hex]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(FILE_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
