"""Open the source checkpoints of mixtures with checks of every tensor, and compare them with each other."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_ray import architectures
from moe_ray.architectures.shapes import decoder_shape
from moe_ray.checkpoints.files import REMEDY, SAVE_REMEDY
from moe_ray.checkpoints.identity import CERTIFICATE_FILE as CERTIFICATE_FILE
from moe_ray.checkpoints.identity import identity_hashes
from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.engines.transformers.loading import read_pretrained
from moe_ray.errors import ModelError, first_line
from moe_ray.files import StoredRecord, read_json
from moe_ray.fingerprint import file_sha256, fingerprint


class SourceRecord(StoredRecord):
    """A source checkpoint of a mixture. `files_sha256` has the hashes of the files that determine its answers."""

    name: str
    path: str
    fingerprint: str
    model_type: str
    files_sha256: dict[str, str]


VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model")
COMPANION_FILES = (
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
COMPANION_FOLDERS = ("additional_chat_templates",)
# Fields that may differ between fine-tunes without a change of what they compute.
FREE_CONFIG_FIELDS = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "attention_dropout",
    "initializer_range",
    "id2label",
    "label2id",
    "problem_type",
}
FREE_TOKENIZER_FIELDS = ("padding", "truncation", "version")
NUM_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCheckpoint:
    """A dense checkpoint: `config` is its transformers configuration, `reader` its tensors."""

    name: str
    directory: Path
    config: Any
    reader: TensorReader


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """A tensor in which `source` differs from the base, with the largest absolute difference of a value."""

    source: str
    tensor: str
    max_abs: float


def open_source(directory: Path, name: str | None = None) -> SourceCheckpoint:
    """Open the checkpoint in `directory`, reading headers only.

    Raises `ModelError` if it is not a checkpoint, is quantised, has its own code, or if its tensors are not exactly
    those of its class: transformers would silently initialise missing tensors when the mixture is loaded.
    """
    config, directory = read_config(directory), directory.expanduser()
    source = SourceCheckpoint(
        name=name or directory.name, directory=directory, config=config, reader=TensorReader(directory)
    )
    _require_plain(source)
    _require_tensors(source)
    return source


def read_config(directory: Path) -> Any:
    """Return the transformers configuration of the checkpoint in `directory`. Raises `ModelError` without one.

    Configurations with unreasonable sizes are refused before transformers parses them.
    """
    from transformers import AutoConfig

    directory = directory.expanduser()
    if not (directory / "config.json").is_file():
        raise ModelError("not a checkpoint: there is no config.json", where=str(directory), remedy="check the path")
    architectures.register()
    try:
        described = read_json(directory / "config.json")
        decoder_shape(described if isinstance(described, dict) else {})
        return read_pretrained(AutoConfig, directory)
    except Exception as error:
        # Configuration classes raise arbitrary errors; the cause is chained.
        raise ModelError(f"unreadable config.json: {first_line(error)}", where=str(directory), remedy=REMEDY) from error


def source_record(source: SourceCheckpoint) -> SourceRecord:
    """Return the source's record for a certificate. Hashes all of its files."""
    files = identity_hashes(source.directory)
    return SourceRecord(
        name=source.name,
        path=str(source.directory),
        fingerprint=fingerprint(files),
        model_type=source.config.model_type,
        files_sha256=files,
    )


def copy_companions(source: SourceCheckpoint, directory: Path) -> None:
    """Copy the files beside the weights: tokenizer, chat template, generation configuration."""
    for name in COMPANION_FILES:
        if (source.directory / name).is_file():
            shutil.copyfile(source.directory / name, directory / name)
    for name in COMPANION_FOLDERS:
        if (source.directory / name).is_dir():
            shutil.copytree(source.directory / name, directory / name)


def compare_sources(
    base: SourceCheckpoint, other: SourceCheckpoint, may_differ: Callable[[str], bool]
) -> tuple[TensorDifference, ...]:
    """Return the tensors in which `other` differs from `base`, except those that `may_differ`.

    Raises `ModelError` if the two differ in shape, configuration, tokenizer, vocabulary or dtype.
    """
    _require_same_config(base, other)
    _require_same_tokenizer(base, other)
    _require_same_tensors(base, other)
    shared = (name for name in base.reader.names() if not may_differ(name))
    found = ((name, _max_difference(base, other, name)) for name in shared)
    return tuple(TensorDifference(source=other.name, tensor=name, max_abs=value) for name, value in found if value)


def _require_plain(source: SourceCheckpoint) -> None:
    for field, what in (("quantization_config", "is quantised"), ("auto_map", "brings its own code")):
        if getattr(source.config, field, None):
            remedy = "choose the checkpoint in its own precision, of a class that transformers has"
            raise ModelError(f"{what} ({field})", where=str(source.directory), remedy=remedy)


def _require_tensors(source: SourceCheckpoint) -> None:
    reader, where = source.reader, str(source.directory)
    expected, optional = _expected_tensors(source.config, where)
    there = {name for name in reader.names() if not name.endswith("rotary_emb.inv_freq")}
    if missing := sorted(expected.keys() - there - optional):
        raise ModelError(f"lacks {_named(missing)}", where=where, remedy=f"{REMEDY}, or {SAVE_REMEDY}")
    if unknown := sorted(there - expected.keys()):
        raise ModelError(
            f"has tensors that its class does not know: {_named(unknown)}", where=where, remedy=SAVE_REMEDY
        )
    for name in sorted(there):
        if reader.shape(name) != expected[name]:
            what = f"{name} is {reader.shape(name)} where config.json says {expected[name]}"
            raise ModelError(what, where=where, remedy=REMEDY)
        if not reader.dtype(name).is_floating_point or reader.dtype(name).itemsize < 2:
            raise ModelError(f"{name} is quantised ({reader.dtype(name)})", where=where, remedy="choose it unquantised")


def _expected_tensors(config: Any, where: str) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Return the shapes of all tensors of the model's class, and the tied ones that files may omit.

    The model is built on the meta device.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        # Model classes raise arbitrary errors; the cause is chained.
        what = f"no model can be made of its config.json: {first_line(error)}"
        raise ModelError(what, where=where, remedy=REMEDY) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return expected, set(model.all_tied_weights_keys)


def _named(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:NUM_NAMED]) + (f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else "")


def _require_same_config(base: SourceCheckpoint, other: SourceCheckpoint) -> None:
    ours, theirs = base.config.to_dict(), other.config.to_dict()
    fields = sorted(
        field for field in (ours.keys() | theirs.keys()) - FREE_CONFIG_FIELDS if ours.get(field) != theirs.get(field)
    )
    if fields:
        shown = "; ".join(f"{field}: {ours.get(field)!r} and {theirs.get(field)!r}" for field in fields[:NUM_NAMED])
        raise _mismatch(base, other, f"their config.json differ in {shown}")


def _require_same_tokenizer(base: SourceCheckpoint, other: SourceCheckpoint) -> None:
    for name in VOCABULARY_FILES:
        pair = [source.directory / name for source in (base, other)]
        if [path.is_file() for path in pair] == [False, False]:
            continue
        if not all(path.is_file() for path in pair):
            raise _mismatch(base, other, f"one of them has no {name}")
        if _vocabulary(pair[0]) != _vocabulary(pair[1]):
            raise _mismatch(base, other, f"their {name} differ")


def _vocabulary(path: Path) -> Any:
    if path.name != "tokenizer.json":
        return file_sha256(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read as JSON: {first_line(error)}", where=str(path), remedy=REMEDY) from error
    if not isinstance(content, dict):
        return content
    return {key: value for key, value in content.items() if key not in FREE_TOKENIZER_FIELDS}


def _require_same_tensors(base: SourceCheckpoint, other: SourceCheckpoint) -> None:
    ours, theirs = set(base.reader.names()), set(other.reader.names())
    if ours != theirs:
        raise _mismatch(base, other, f"only one of them has {_named(sorted(ours ^ theirs))}")
    for name in sorted(ours):
        if base.reader.dtype(name) != other.reader.dtype(name):
            types = f"{base.reader.dtype(name)} and {other.reader.dtype(name)}"
            raise _mismatch(base, other, f"{name} is {types}")


def _mismatch(base: SourceCheckpoint, other: SourceCheckpoint, what: str) -> ModelError:
    return ModelError(
        f"{what}: they are not fine-tunes of one base",
        where=f"{base.directory} and {other.directory}",
        remedy="take fine-tunes of one base model, with one tokenizer, saved in one dtype",
    )


def _max_difference(base: SourceCheckpoint, other: SourceCheckpoint, name: str) -> float:
    ours, theirs = base.reader.get(name), other.reader.get(name)
    if torch.equal(ours, theirs):
        return 0.0
    return float((ours.float() - theirs.float()).abs().max())
