"""Read and write the tensors of a checkpoint one at a time, across sharded safetensors files.

At most one tensor is in memory.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from moe_ray.checkpoints.files import INDEX_FILE, SINGLE_FILE, open_weights, require_indexed, weight_files
from moe_ray.errors import ModelError

DEFAULT_MAX_SHARD_BYTES = 5 * 10**9
# The header precedes the data but is known only at the end: space for about two thousand names is reserved, and padded
# with blanks, as the format allows.
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
        """Return all tensor names in natural order: layers.2 before layers.10."""
        return tuple(sorted(self._file_of, key=natural_key))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Return the tensor's dtype. Raises `ModelError` for an unsupported one."""
        given = self._slice(name).get_dtype()
        if given not in DTYPES:
            raise ModelError(f"{name} is {given}, which is not handled", where=str(self._file_of[name]))
        return DTYPES[given]

    def get(self, name: str) -> torch.Tensor:
        """Return the tensor, copied to CPU memory."""
        tensor: torch.Tensor = self._file(name).get_tensor(name)
        return tensor

    def get_empty(self, name: str) -> torch.Tensor:
        """Return a tensor of the same shape and dtype on the meta device."""
        return torch.empty(self.shape(name), dtype=self.dtype(name), device="meta")

    def _slice(self, name: str) -> Any:
        return self._file(name).get_slice(name)

    def _file(self, name: str) -> Any:
        return self._files[self._file_of[name]]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that compares numbers inside names as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


class TensorWriter:
    """Streams tensors into `directory`, in files of up to `max_shard_bytes` (a single tensor may be larger).

    Files get their final names only in `finish`. To never leave a partial checkpoint, use inside
    `write_directory_atomically`.
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
        """Rename the files as transformers expects, and write the index if there are several."""
        self._close_last()
        count = len(self._shards)
        files = [SINGLE_FILE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        for shard, file in zip(self._shards, files, strict=True):
            shard.path.rename(self._directory / file)
        if count > 1:
            self._write_index(files)
        return tuple(self._directory / file for file in files)

    def close(self) -> None:
        """Close the current file, finished or not."""
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


def write_tensors(
    directory: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> None:
    """Write all `tensors` with a `TensorWriter`. `on_bytes` receives the size of each tensor after it is written."""
    writer = TensorWriter(directory, max_shard_bytes)
    try:
        for name, tensor in tensors:
            writer.add(name, tensor)
            on_bytes(tensor.nbytes)
        writer.finish()
    finally:
        writer.close()


class _Shard:
    """A safetensors file that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = path.open("wb")
        self.file.seek(8 + HEADER_BYTES)
        self.header: dict[str, dict[str, Any]] = {}
        self.num_bytes = 0
        self._header_bytes = len(_encode({}))

    def has_room(self, name: str, tensor: torch.Tensor, max_bytes: int) -> bool:
        """Return whether the tensor fits: file size, header size, and alignment to its dtype."""
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
    """Yield the tensor's bytes as buffers; row by row if it is not contiguous, to avoid a full copy."""
    if tensor.dim() > 1 and not tensor.is_contiguous():
        for row in tensor:
            yield from _parts(row)
        return
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel():
        values = flat.view(torch.uint8).numpy()
        for start in range(0, len(values), WRITE_CHUNK_BYTES):
            yield values[start : start + WRITE_CHUNK_BYTES]
