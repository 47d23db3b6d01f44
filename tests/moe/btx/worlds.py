"""Tiny texts of three domains, a GPT-Neo without any training, and settings that train it in a second."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_ray.moe.btx.request import PretrainConfig

ARCHITECTURE: Mapping[str, Any] = {
    "model_type": "gpt_neo",
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 40,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 8,
    "max_position_embeddings": 64,
    "vocab_size": 300,
    "initializer_range": 0.3,
}
WORDS = {
    "coding": ["def", "return", "value", "loop", "print", "list", "index", "while"],
    "math": ["sum", "is", "seven", "plus", "twice", "half", "equals", "nine"],
    "law": ["court", "seller", "party", "claim", "breach", "damages", "clause", "notice"],
}
TRAINING: Mapping[str, Any] = {
    "steps": 12,
    "batch_size": 2,
    "block_tokens": 16,
    "learning_rate": 5e-3,
    "precision": "float32",
    "checkpoint_every": 5,
}


def write_texts(folder: Path, *, num_texts: int = 12, num_words: int = 30) -> dict[str, Path]:
    """Write each domain's texts: its own words in random order."""
    files = {}
    for name, words in WORDS.items():
        draw = random.Random(name)
        records = [{"text": " ".join(draw.choices(words, k=num_words))} for _ in range(num_texts)]
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return files


def pretrain_config(folder: Path, **changed: Any) -> PretrainConfig:
    """A configuration of three experts, whose texts are written into `folder`."""
    given = {
        "architecture": dict(ARCHITECTURE),
        "experts": {name: [{"source": str(path)}] for name, path in write_texts(folder).items()},
        "training": dict(TRAINING),
        "runtime": {"cpu_threads": 1},
    }
    return PretrainConfig.model_validate({**given, **changed})
