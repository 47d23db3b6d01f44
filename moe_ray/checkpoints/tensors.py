"""Checkpoints' tensors, one at a time: read over all safetensors files, written into files of a bounded size.

Neither side ever holds more than the tensor at hand.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from moe_ray.checkpoints.files import INDEX_FILE, SINGLE_FILE, open_weights, require_indexed, weight_files
from moe_ray.errors import ModelError

DEFAULT_MAX_SHARD_BYTES = 5 * 10**9
# The header stands before the data and is known only at the end: room for some two thousand names is kept, and what
# is left of it is filled with blanks, as the format allows.
HEADER_BYTES = (1 << 18) - 8
WRITE_CHUNK_BYTES = 1 << 26

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorReader:
    """The tensors of the checkpoint in `directory`. Raises `ModelError` when its files are missing or damaged."""

    def __init__(self, directory: Path) -> None:
        self._files = {path: open_weights(path) for path in weight_files(directory)}
        self._file_of = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118 (no mapping)
        require_indexed(directory, self._file_of)

    def names(self) -> tuple[str, ...]:
        """All tensors' names, sorted as people count: layers.2 before layers.10."""
        return tuple(sorted(self._file_of, key=natural_key))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Its type; raises `ModelError` for one that is not handled here."""
        given = self._slice(name).get_dtype()
        if given not in DTYPES:
            raise ModelError(f"{name} is {given}, which is not handled", where=str(self._file_of[name]))
        return DTYPES[given]

    def get(self, name: str) -> torch.Tensor:
        """Its values, on the CPU, in memory of their own."""
        tensor: torch.Tensor = self._file(name).get_tensor(name)
        return tensor

    def get_empty(self, name: str) -> torch.Tensor:
        """A tensor on the meta device of the same shape and type: no values, no memory."""
        return torch.empty(self.shape(name), dtype=self.dtype(name), device="meta")

    def _slice(self, name: str) -> Any:
        return self._file(name).get_slice(name)

    def _file(self, name: str) -> Any:
        return self._files[self._file_of[name]]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key by which numbers inside names count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


class TensorWriter:
    """Writes tensors into `directory` as they come, in files of up to `max_shard_bytes` (one tensor may be larger).

    The directory is no checkpoint before `finish`: until then its files have other names. Who must never leave half of
    one calls this inside `write_directory_atomically`.
    """

    def __init__(self, directory: Path, max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES) -> None:
        self._directory, self._max_shard_bytes = directory, max_shard_bytes
        self._shards: list[_Shard] = []
        self._names: set[str] = set()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor; `name` must be new."""
        if name in self._names:
            raise ValueError(f"{name} is written twice")
        self._names.add(name)
        if not self._shards or not self._shards[-1].has_room(name, tensor, self._max_shard_bytes):
            self._close_last()
            self._shards.append(_Shard(self._directory / f"shard-{len(self._shards)}.partial"))
        self._shards[-1].add(name, tensor)

    def finish(self) -> tuple[Path, ...]:
        """Name the files as transformers expects them, and write the index when there are several."""
        self._close_last()
        count = len(self._shards)
        files = [SINGLE_FILE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        for shard, file in zip(self._shards, files, strict=True):
            shard.path.rename(self._directory / file)
        if count > 1:
            self._write_index(files)
        return tuple(self._directory / file for file in files)

    def close(self) -> None:
        """Let go of the file at hand, finished or not."""
        if self._shards:
            self._shards[-1].file.close()

    def _close_last(self) -> None:
        if self._shards:
            self._shards[-1].finish()

    def _write_index(self, files: list[str]) -> None:
        shards = list(zip(self._shards, files, strict=True))
        index = {
            "metadata": {"total_size": sum(shard.num_bytes for shard in self._shards)},
            "weight_map": {name: file for shard, file in shards for name in shard.header},
        }
        (self._directory / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")


class _Shard:
    """One safetensors file in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = path.open("wb")
        self.file.seek(8 + HEADER_BYTES)
        self.header: dict[str, dict[str, Any]] = {}
        self.num_bytes = 0
        self._header_bytes = len(_encode({}))

    def has_room(self, name: str, tensor: torch.Tensor, max_bytes: int) -> bool:
        """Say whether the tensor may come next: in size, in its name's place in the header, and aligned to its type."""
        fits = self.num_bytes == 0 or self.num_bytes + tensor.nbytes <= max_bytes
        named = self._header_bytes + len(_encode({name: self._entry(tensor)})) <= HEADER_BYTES
        return fits and named and self.num_bytes % tensor.itemsize == 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        entry = self._entry(tensor)
        self.header[name] = entry
        self._header_bytes += len(_encode({name: entry}))
        for part in _parts(tensor):
            self.file.write(part)
        self.num_bytes += tensor.nbytes

    def finish(self) -> None:
        if not self.file.closed:
            self.file.seek(0)
            self.file.write(HEADER_BYTES.to_bytes(8, "little"))
            self.file.write(_encode({"__metadata__": {"format": "pt"}, **self.header}).ljust(HEADER_BYTES))
            self.file.close()

    def _entry(self, tensor: torch.Tensor) -> dict[str, Any]:
        offsets = [self.num_bytes, self.num_bytes + tensor.nbytes]
        return {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}


def _encode(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def _parts(tensor: torch.Tensor) -> Iterator[Any]:
    """The values' bytes in order, as buffers; row by row where they are not contiguous, so as not to copy all."""
    if tensor.dim() > 1 and not tensor.is_contiguous():
        for row in tensor:
            yield from _parts(row)
        return
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel():
        values = flat.view(torch.uint8).numpy()
        for start in range(0, len(values), WRITE_CHUNK_BYTES):
            yield values[start : start + WRITE_CHUNK_BYTES]
