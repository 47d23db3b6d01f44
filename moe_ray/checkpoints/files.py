"""Files of a checkpoint, checked without torch: safetensors weights, their index, tokenizer and chat template."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ModelError, first_line
from moe_ray.files import open_regular, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
REMEDY = "download or write the checkpoint again"
SAVE_REMEDY = "load it with transformers and save it again with save_pretrained"


def open_weights(path: Path, framework: Literal["np", "pt"] = "pt") -> Any:
    """Open a safetensors file for tensors of `framework`. Never blocks.

    Headers are parsed by safetensors, which checks them against the file's size. Uses pread, because the pages of a
    memory map count as the process's memory until the kernel reclaims them. Raises `ModelError` for a file that is
    missing, damaged, or not regular.
    """
    try:
        with open_regular(path):  # opening a pipe would block
            return safe_open(path, framework=framework, backend="pread")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"damaged weights: {first_line(error)}", where=str(path), remedy=REMEDY) from error


def count_parameters(path: Path) -> int:
    """Count the parameters in a file's header. Raises what `open_weights` raises."""
    with open_weights(path, "np") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)


def weight_files(directory: Path) -> list[Path]:
    """Return a checkpoint's safetensors files: those in its index, or all. Raises `ModelError` without any."""
    index = directory / INDEX_FILE
    if index.is_file():
        return [directory / name for name in sorted(set(tensor_files(index).values()))]
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelError("has no .safetensors weights", where=str(directory), remedy=SAVE_REMEDY)
    return files


def tensor_files(index: Path) -> Mapping[str, str]:
    """Return the file name of each tensor in an index. Raises `ModelError` for a damaged index."""
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
    """Raise `ModelError` unless all tensors of the index are in `there`."""
    index = directory / INDEX_FILE
    missing = sorted(tensor_files(index).keys() - there.keys()) if index.is_file() else []
    if missing:
        what = f"the index promises {missing[0]} and {len(missing) - 1} more tensors that are in no file"
        raise ModelError(what, where=str(index), remedy=REMEDY)


TOKENIZER_REMEDY = "put the tokenizer's files beside the weights, or name another tokenizer with tokenizer:"
TEMPLATE_REMEDY = "set prompt_style: completion for this model, or name a tokenizer that has a template"
_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
_PATTERNS = ("*.model", "*.tiktoken", "tokenizer*.json")
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tekken.json")


def require_tokenizer(name: str, model: ModelConfig) -> None:
    """Raise `ModelError` if a model that moe_ray loads itself has no usable tokenizer, or no template for chat.

    A necessary check, without torch: a tokenizer that only its own code or an old file format defines passes. A hub
    id is checked by its files in the hub cache, if it is cached.
    """
    if not settings_class(model.engine).loads_checkpoint:
        return
    key = "path" if model.tokenizer is None else "tokenizer"
    folder = _folder(model)
    if folder is None:
        return
    where = f"models.{name}.{key}"
    if not folder.is_dir() or not _has_files(folder):
        raise ModelError(f"no usable tokenizer: {folder} holds none", where=where, remedy=TOKENIZER_REMEDY)
    settings = _read_object(folder / "tokenizer_config.json", where)
    _require_loadable(folder / "tokenizer.json", where)
    if model.prompt_style == "chat" and not model.trust_remote_code and not _has_template(folder, settings):
        raise ModelError(
            "prompt_style is chat, but the tokenizer has no chat template", where=where, remedy=TEMPLATE_REMEDY
        )


def _folder(model: ModelConfig) -> Path | None:
    """Return the folder of the tokenizer's files; None for a hub id whose files are not all in the cache."""
    source = model.tokenizer or model.path
    if is_local_path(source):
        return Path(source).expanduser()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    revision = model.revision if model.tokenizer is None else None
    try:
        found = [
            try_to_load_from_cache(source, file, revision=revision)
            for file in ("tokenizer.json", "tokenizer_config.json")
        ]
    except HFValidationError:
        return None
    places = [Path(place).parent for place in found if isinstance(place, str)]
    return places[0] if len(places) == len(found) else None


def _has_files(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _FILES) or any(
        next(folder.glob(pattern), None) is not None for pattern in _PATTERNS
    )


def _has_template(folder: Path, settings: Mapping[str, Any]) -> bool:
    written = settings.get("chat_template")
    return (
        bool(written)
        or any((folder / file).is_file() for file in _TEMPLATES)
        or (folder / "additional_chat_templates" / "default.jinja").is_file()
    )


def _require_loadable(path: Path, where: str) -> None:
    if not path.is_file():
        return
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # The library raises a bare Exception for a file that it cannot parse.
        raise ModelError(f"no usable tokenizer: {path}: {error}", where=where, remedy=TOKENIZER_REMEDY) from error
    if tokenizer.get_vocab_size(with_added_tokens=False) == 0:
        raise ModelError("no usable tokenizer: its vocabulary is empty", where=where, remedy=TOKENIZER_REMEDY)


def _read_object(path: Path, where: str) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", where=where, remedy=TOKENIZER_REMEDY) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object", where=where, remedy=TOKENIZER_REMEDY)
    return value
