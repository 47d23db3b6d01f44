"""The one YAML: five models of four architectures, three domains, the full matrix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.real_input.texts import MBPP, PUBMEDQA

BASELINE = "generalist"
STORIES = "stories260k"

HEADER = """\
# Written by benchmarks/real_input. Real data, small real models: the figures show that the path works, not that the
# models are good. Run it with: moe-ray evaluate THIS_FILE
"""
TRAINED_NOTE = "Trained from scratch for about a minute on {}; expect poor answers."
STORIES_NOTE = "llama2.c's pretrained model of children's stories, 260k parameters; it knows none of the domains."


def write_experiment(path: Path, data: Path, legal_file: Path, models: Mapping[str, tuple[Path, str]]) -> None:
    """Write the experiment file. `models` maps a name to its checkpoint and to what it was trained on."""
    experiment = {
        "name": "real-input",
        "description": "PubMedQA (dev 500), MBPP and Indian statutes; five small models of four architectures",
        "models": {name: _model(name, *entry) for name, entry in models.items()},
        "baseline": BASELINE,
        "domains": _domains(data, legal_file),
        "matrix": "full",
        "decoding": {"max_new_tokens": 48, "temperature": 0.0},
        "runtime": {"gpus": 0, "cpu_threads": 1, "batch_size": 32, "shard_size": 64, "probe_examples": 3},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + yaml.safe_dump(experiment, sort_keys=False, width=110), encoding="utf-8")


def _model(name: str, checkpoint: Path, texts: str) -> dict[str, Any]:
    note = STORIES_NOTE if name == STORIES else TRAINED_NOTE.format(texts)
    return {
        "path": str(checkpoint.resolve()),
        "prompt_style": "completion",
        "overflow": "truncate_left",
        "notes": [note],
    }


def _domains(data: Path, legal_file: Path) -> dict[str, Any]:
    return {
        "biomedical": {
            "task": "pubmedqa",
            "expert": "medic",
            "data": {"source": str((data / PUBMEDQA).resolve())},
            "notes": [
                "PubMedQA's 500 labelled questions outside the official test set: compare with no published figure.",
                "Prompts longer than a model's context of 512 tokens are cut from the left.",
            ],
        },
        "legal": {
            "task": "free_text",
            "expert": "jurist",
            "data": {"source": str(legal_file.resolve())},
            "columns": {"id": "id", "question": "question", "reference": "answer"},
            "notes": [
                "Questions on the Indian constitution and penal code, machine-made as it reads; not Law-StackExchange.",
                "Held out in blocks of 50 neighbours; training texts that repeat a question or answer were dropped.",
            ],
        },
        "code": {
            "task": "mbpp",
            "expert": "coder",
            "max_new_tokens": 64,
            "data": {"source": str((data / MBPP).resolve())},
            "notes": ["MBPP's training and prompt tasks, not its test split: compare with no published figure."],
        },
    }
