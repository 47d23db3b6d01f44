"""Identity, size and shape of a checkpoint, from its files alone. Needs no torch."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_ray.architectures.shapes import parameters_of_config
from moe_ray.checkpoints.files import count_parameters
from moe_ray.config.paths import cache_directory
from moe_ray.config.schema import ModelConfig, PromptStyle, is_local_path
from moe_ray.engines.registry import settings_class, text_settings
from moe_ray.errors import ModelError, first_line
from moe_ray.files import read_json, write_text_atomically
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.hub import hub_answers, hub_errors


class FileHashes:
    """A persistent cache of file hashes in `path`. A lost or damaged cache only costs time."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or cache_directory() / "file-hashes.json"
        try:
            self._known: dict[str, list[object]] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of the file's bytes."""
        status = path.stat()
        name = str(path.resolve())
        entry = self._known.get(name)
        if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
            entry = [status.st_size, status.st_mtime_ns, file_sha256(path)]
            self._known[name] = entry
            self._changed = True
        return str(entry[2])

    def save(self) -> None:
        """Write the cache if it has changed; write errors are ignored."""
        if self._changed:
            try:
                write_text_atomically(self._path, json.dumps(self._known))
            except OSError:
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Everything that determines a model's text. `fingerprint` covers weights or hub revision, dtype, quantisation and
    engine."""

    name: str
    fingerprint: str
    prompt_style: PromptStyle

    @property
    def key(self) -> str:
        """The part of a cell's key that identifies the model, independent of its name."""
        return fingerprint({"model": self.fingerprint, "style": self.prompt_style})


IDENTITY_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".py")
# Written beside a mixture by moe_ray: describes how it was made, and does not affect its answers.
CERTIFICATE_FILE = "certificate.json"
_SIZE_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)[bB](?![A-Za-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Facts on a model that are known before it is loaded.

    `config` is its config.json, None if unavailable; `num_parameters` is None if unknown, and `size_source` is its
    origin. `files_sha256` is empty for a hub id.
    """

    name: str
    identity: ModelIdentity
    config: Mapping[str, Any] | None
    num_parameters: int | None
    size_source: str
    revision: str | None
    files_sha256: Mapping[str, str]


def inspect_checkpoint(name: str, model: ModelConfig, hashes: FileHashes) -> Checkpoint:
    """Inspect the files of `model`. Raises `ModelError` if a local path is not a checkpoint.

    A model of an engine without files is identified by its name, a hub id by id and revision. A hub id's config is read
    from the local hub cache or fetched; if unavailable, the size is parsed from the id ("7B").
    """
    engine = settings_class(model.engine)
    files: dict[str, str] = {}
    content: object
    if not engine.has_files:
        content = engine.content(model)
        source = "unknown" if engine.size_bytes(model) is None else model.engine
        config, num_parameters, revision = None, None, None
    elif engine.reads_single_files and is_local_path(model.path) and Path(model.path).expanduser().is_file():
        file = Path(model.path).expanduser()
        files = {file.name: hashes.sha256(file)}
        config, num_parameters, source, revision, content = None, None, "unknown", None, files
    elif is_local_path(model.path):
        directory = Path(model.path).expanduser()
        config = _local_config(name, directory)
        files = identity_hashes(directory, hashes.sha256)
        num_parameters, source = _count_parameters(directory), "safetensors headers"
        content, revision = files, None
    else:
        config, num_parameters, source, revision = _hub_facts(name, model)
        content = [model.path, model.revision or "main"]
    if config is not None:
        estimated = _estimated_parameters(name, config)
        if num_parameters is None:
            num_parameters, source = estimated, "config.json" if estimated is not None else "unknown"
    return Checkpoint(
        name=name,
        identity=ModelIdentity(
            name=name, fingerprint=_model_fingerprint(model, content, config, hashes), prompt_style=model.prompt_style
        ),
        config=config,
        num_parameters=num_parameters,
        size_source=source,
        revision=revision,
        files_sha256=files,
    )


def _model_fingerprint(
    model: ModelConfig, content: object, config: Mapping[str, Any] | None, hashes: FileHashes
) -> str:
    tokenizer: object = model.tokenizer
    if model.tokenizer is not None and is_local_path(model.tokenizer):
        directory = Path(model.tokenizer).expanduser()
        tokenizer = identity_hashes(directory, hashes.sha256) if directory.is_dir() else None
    # Only if set, so that the keys of other models do not change.
    switches = {"chat_template_kwargs": model.chat_template_kwargs} if model.chat_template_kwargs else {}
    return fingerprint(
        {
            **switches,
            "content": content,
            "tokenizer": tokenizer,
            "dtype": model.dtype,
            "quantization": model.quantization,
            "overflow": model.overflow,
            "engine": model.engine,
            "settings": text_settings(model.engine, model.engine_settings, config),
        }
    )


def _local_config(name: str, directory: Path) -> Mapping[str, Any]:
    path = directory / "config.json"
    where = f"models.{name}.path"
    if not directory.is_dir():
        raise ModelError(
            f"no such folder: {directory}",
            where=where,
            remedy="name a folder that holds a checkpoint, or a hub id (one that does not start with ./, ../, / or ~)",
        )
    if not path.is_file():
        raise ModelError(
            f"{directory} is not a checkpoint: it has no config.json",
            where=where,
            remedy="name the folder that save_pretrained wrote, with config.json, weights and tokenizer",
        )
    return _config_of(path, where)


def _config_of(path: Path, where: str) -> Mapping[str, Any]:
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not JSON that can be read: {first_line(error)}", where=where, remedy="restore the checkpoint"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object", where=where, remedy="restore the checkpoint")
    return config


def _estimated_parameters(name: str, config: Mapping[str, Any]) -> int | None:
    try:
        return parameters_of_config(config)
    except ValueError as error:
        raise ModelError(
            f"its config.json is damaged: {error}", where=f"models.{name}.path", remedy="restore the checkpoint"
        ) from error


def identity_hashes(directory: Path, sha256: Callable[[Path], str] = file_sha256) -> dict[str, str]:
    """Return the SHA-256 of each of `identity_files`, by name."""
    return {path.name: sha256(path) for path in identity_files(directory)}


def identity_files(directory: Path) -> list[Path]:
    files = (path for path in directory.glob("*") if path.is_file() and path.suffix in IDENTITY_SUFFIXES)
    return sorted(path for path in files if path.name != CERTIFICATE_FILE)


def _count_parameters(directory: Path) -> int | None:
    """Count the parameters in the safetensors headers; None without such files."""
    files = sorted(directory.glob("*.safetensors"))
    return sum(count_parameters(path) for path in files) if files else None


def _hub_facts(name: str, model: ModelConfig) -> tuple[Mapping[str, Any] | None, int | None, str, str | None]:
    path = _hub_config_path(model)
    if path is None:
        named = _SIZE_IN_NAME.search(model.path)
        num_by_name = int(float(named.group(1)) * 1e9) if named else None
        reach = "config.json is out of reach" if hub_answers() else "the hub cannot be reached"
        source = f"{'its name' if named else 'unknown'}: {reach}; moe-ray models download fetches it"
        return None, num_by_name, source, model.revision
    return _config_of(path, f"models.{name}.path"), None, "config.json", path.parent.name


def _hub_config_path(model: ModelConfig) -> Path | None:
    """Return the hub cache's config.json for this revision, fetching it if the hub answers; None if not."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
        if isinstance(cached, str):
            return Path(cached)
        return Path(hf_hub_download(model.path, "config.json", revision=model.revision)) if hub_answers() else None
    except HFValidationError as error:
        raise ModelError(
            f"{model.path!r} is neither a hub id nor a path that starts with ./, ../, / or ~",
            remedy="a hub id is owner/name; write a local folder as ./name",
        ) from error
    except hub_errors():
        return None
