"""What fine-tunes have otherwise than the first of them, outside their feed-forwards."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moe_ray.errors import ModelError
from moe_ray.moe.merged.gate_records import GateRecord
from moe_ray.moe.merged.gate_training import tensor_sha256
from moe_ray.moe.merged.naming import Naming
from moe_ray.moe.source import COMPANION_FILES, VOCABULARY_FILES, Source, compare_sources

# They differ between fine-tunes that compute the same: names, versions, and how batches were padded in training.
FREE_KEYS = frozenset(
    ("name_or_path", "transformers_version", "_from_model_config", "is_local", "local_files_only", "padding_side")
)
END_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")
NUM_NAMED = 3


def differences(sources: Sequence[Source], gate: GateRecord, naming: Naming) -> list[str]:
    """Return a line for each thing that a merge would take from the first source, though another has it otherwise.

    The input embeddings that the gate was trained on are held against the first source's too. Raises `ModelError` when
    two sources differ in shape, configuration, tokenizer, vocabulary or dtype.
    """
    first, found, of_experts = sources[0], list[str](), naming.of_experts
    for other in sources[1:]:
        found += [
            f"{one.source}: {one.tensor} differs by up to {one.max_abs:.3g}"
            for one in compare_sources(first, other, of_experts.__contains__)
        ]
        found += _different_files(first, other)
        found += _different_ends(first, other)
    if tensor_sha256(first.reader.get(naming.embedding)) != gate.embeddings_sha256:
        found.append(f"{first.name}: {naming.embedding} is not what the gate was trained on ({gate.base_model})")
    return found


def require_none(found: Sequence[str]) -> None:
    """Raise `ModelError` that names the first differences, if there are any."""
    if found:
        shown = "; ".join(found[:NUM_NAMED]) + ("; ..." if len(found) > NUM_NAMED else "")
        raise ModelError(
            f"the sources differ in {len(found)} things outside their feed-forwards ({shown})",
            remedy="merge fine-tunes of the feed-forwards alone, or take all else from the first with --take-first",
        )


def _different_files(first: Source, other: Source) -> Iterator[str]:
    for name in COMPANION_FILES:
        if name in VOCABULARY_FILES:
            continue
        ours, theirs = _content(first.directory / name), _content(other.directory / name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            if keys := [key for key in keys if key not in FREE_KEYS]:
                yield f"{other.name}: {name} differs in {', '.join(keys)}"
        elif ours != theirs:
            yield f"{other.name}: {name} differs"


def _content(path: Path) -> Any:
    """A file's JSON, or its text where it is none; None where there is no such file."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _different_ends(first: Source, other: Source) -> Iterator[str]:
    for field in END_FIELDS:
        ours, theirs = getattr(first.config, field, None), getattr(other.config, field, None)
        if ours != theirs:
            yield f"{other.name}: config.json has {field} {theirs}, not {ours}"
