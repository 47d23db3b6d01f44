"""An experiment of real transformers models, tiny and random, and the comparison of what its runs said."""

import hashlib
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from moe_ray.store.answers import CONTENT_COLUMNS
from moe_ray.store.run_directory import RunDirectory
from tests.support.tiny_models import WORDS, Architecture, make_tiny_checkpoint

NAME = "tiny"
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "mistral", "qwen2")
LABELS = ("yes", "no", "maybe")


def write_tiny_experiment(
    folder: Path, *, num_examples: int, max_new_tokens: int, models: Sequence[Architecture] = ARCHITECTURES
) -> Path:
    """Write random checkpoints, two domains with generated data and the experiment; return its path.

    Every model answers every example: a decision with likelihoods of three choices, and a free text with those of its
    reference. Decoding is greedy, and each model has one thread.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for seed, architecture in enumerate(models):
        make_tiny_checkpoint(folder / architecture, architecture, seed)
    rng = random.Random(0)
    _write_lines(folder / "decisions.jsonl", [_decision(rng, i) for i in range(num_examples)])
    _write_lines(folder / "texts.jsonl", [_text(rng, i) for i in range(num_examples)])
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(_experiment(models, max_new_tokens), sort_keys=False))
    return path


def _experiment(models: Sequence[Architecture], max_new_tokens: int) -> dict[str, Any]:
    return {
        "name": NAME,
        "models": {name: {"path": f"./{name}", "dtype": "float32"} for name in models},
        "baseline": models[0],
        "matrix": "full",
        "domains": {
            "decisions": {
                "task": "decision",
                "data": {"source": "./decisions.jsonl"},
                "columns": {"id": "id", "question": "question", "label": "label"},
                "choices": list(LABELS),
                "prompt": {"template": "{question}"},
            },
            "texts": {
                "task": "free_text",
                "data": {"source": "./texts.jsonl"},
                "columns": {"id": "id", "question": "question", "reference": "reference"},
                "prompt": {"template": "{question}"},
                "graders": ["rouge_l"],
            },
        },
        "decoding": {"max_new_tokens": max_new_tokens},
        "runtime": {"cpu_threads": 1, "batch_size": 4, "shard_size": 8, "probe_examples": 1, "max_attempts": 5},
    }


def _sentence(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


def _decision(rng: random.Random, index: int) -> dict[str, str]:
    return {"id": f"d{index}", "question": _sentence(rng, rng.randint(3, 12)), "label": rng.choice(LABELS)}


def _text(rng: random.Random, index: int) -> dict[str, str]:
    return {"id": f"t{index}", "question": _sentence(rng, rng.randint(3, 12)), "reference": _sentence(rng, 6)}


def _write_lines(path: Path, records: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def evaluate_command(experiment: Path, results_dir: Path, **runtime: object) -> list[str]:
    """The command that runs `experiment`, or resumes it."""
    settings = [f"--set=runtime.{key}={value}" for key, value in runtime.items()]
    program = [sys.executable, "-m", "moe_ray", "evaluate", str(experiment)]
    return [*program, "--results-dir", str(results_dir), *settings]


def private_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a driver that touches nobody's files and nobody else's Ray."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the answers of a run differ from those of the undisturbed one, in cells."""

    num_cells: int
    num_lost: int
    num_twice: int
    num_other: int
    same_bytes: bool

    @property
    def is_none(self) -> bool:
        return self.same_bytes and not (self.num_lost or self.num_twice or self.num_other)


def difference(undisturbed: RunDirectory, run: RunDirectory) -> Difference:
    """Compare the content columns of two runs, sorted by key: row by row, and as bytes."""
    wanted, got = (_content(entry) for entry in (undisturbed, run))
    wanted_rows, got_rows = ({row["key"]: row for row in table.to_pylist()} for table in (wanted, got))
    shared = wanted_rows.keys() & got_rows.keys()
    return Difference(
        num_cells=len(wanted_rows),
        num_lost=len(wanted_rows.keys() - got_rows.keys()),
        num_twice=got.num_rows - len(got_rows),
        num_other=sum(wanted_rows[key] != got_rows[key] for key in shared) + len(got_rows.keys() - wanted_rows.keys()),
        same_bytes=_digest(wanted) == _digest(got),
    )


def _content(run: RunDirectory) -> pa.Table:
    return run.answers_table(list(CONTENT_COLUMNS)).sort_by("key").combine_chunks()


def _digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()
