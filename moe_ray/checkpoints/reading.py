"""The one reader of safetensors files and of their index. Loads no torch until a tensor's values are read.

Headers are parsed by safetensors, which checks them against the size of the file. Files are read with pread, because
the pages of a memory map count as the process's memory until the kernel wants them back.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from moe_ray.errors import ModelError, first_line
from moe_ray.files import open_regular, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
REMEDY = "download or write the checkpoint again"
SAVE_REMEDY = "load it with transformers and save it again with save_pretrained"


def open_weights(path: Path, framework: Literal["np", "pt"] = "pt") -> Any:
    """Open a safetensors file, for the tensors of `framework`. Never waits, whatever `path` is.

    Raises `ModelError` for one that is missing, damaged, or not a regular file.
    """
    try:
        with open_regular(path):  # a pipe would be waited for
            return safe_open(path, framework=framework, backend="pread")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"damaged weights: {first_line(error)}", where=str(path), remedy=REMEDY) from error


def count_parameters(path: Path) -> int:
    """Count the parameters that a file's header declares, without reading any. Raises as `open_weights` does."""
    with open_weights(path, "np") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those that its index names, or all. Raises `ModelError` without any."""
    index = directory / INDEX_FILE
    if index.is_file():
        return [directory / name for name in sorted(set(tensor_files(index).values()))]
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelError("has no .safetensors weights", where=str(directory), remedy=SAVE_REMEDY)
    return files


def tensor_files(index: Path) -> Mapping[str, str]:
    """The name of the file, beside the index, that holds each tensor. Raises `ModelError` for a damaged index."""
    try:
        files = read_json(index)["weight_map"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(f"damaged index: {first_line(error)}", where=str(index), remedy=REMEDY) from error
    if not isinstance(files, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in files.values()
    ):
        raise ModelError("the index names no files beside it", where=str(index), remedy=REMEDY)
    return files


def require_indexed(directory: Path, there: Mapping[str, Path]) -> None:
    """Raise `ModelError` unless each tensor that the index names is `there`."""
    index = directory / INDEX_FILE
    missing = sorted(tensor_files(index).keys() - there.keys()) if index.is_file() else []
    if missing:
        what = f"the index promises {missing[0]} and {len(missing) - 1} more tensors that are in no file"
        raise ModelError(what, where=str(index), remedy=REMEDY)
