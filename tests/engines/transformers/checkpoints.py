"""Tiny checkpoints that the tests of decoding share."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.tiny_models import Architecture

ARCHITECTURES: tuple[Architecture, ...] = ("llama", "mistral", "qwen2", "phi3", "gpt2", "gemma2", "gemma3")


def with_end_tokens(directory: Path, copy: Path, eos_token_ids: list[int], **settings: Any) -> Path:
    """Copy a checkpoint whose generation configuration says more."""
    shutil.copytree(directory, copy)
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_token_ids, **settings}))
    return copy
