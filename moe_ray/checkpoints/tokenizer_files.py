"""Check if a checkpoint has a tokenizer and a chat template, without loading a model or torch.

The engine's own loading remains the judge. What is refused here it would refuse too; a tokenizer that only its own code
or an older file format can tell about passes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ModelError
from moe_ray.files import read_json

TOKENIZER_REMEDY = "put the tokenizer's files beside the weights, or name another tokenizer with tokenizer:"
TEMPLATE_REMEDY = "set prompt_style: completion for this model, or name a tokenizer that has a template"
_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")
_PATTERNS = ("*.model", "*.tiktoken", "tokenizer*.json")
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tekken.json")


def require_tokenizer(name: str, model: ModelConfig) -> None:
    """Raise `ModelError` when a model that moe_ray itself loads has no usable tokenizer, or no template for chat.

    A hub id is judged by its files in the hub cache, when its tokenizer is there.
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
    """Where the tokenizer's files are, None for one on the hub whose files are not all in the cache."""
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
