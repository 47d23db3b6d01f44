"""The three domains' texts: what is trained on, what settings are chosen by, and what is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moe_ray.moe.apart.config import TextsConfig
from moe_ray.moe.apart.texts import read_expert_texts

DOMAINS: Mapping[str, Mapping[str, Any]] = {
    "coding": {"task": "coding", "file": "code/new_codealpaca.json"},
    "math": {"task": "math", "file": "ood/gsm8k_train.jsonl"},
    "biomedical": {
        "task": "free_text",
        "file": "biomedical/medquad_4000.jsonl",
        "columns": {"id": "id", "question": "question", "reference": "answer"},
    },
}
HELD_OUT_FRACTION = 0.1
EXPERIMENT_FILE = "texts.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """By domain. No text of one part is, even nearly, one of another."""

    train: Mapping[str, tuple[str, ...]]
    choosing: Mapping[str, tuple[str, ...]]
    measured: Mapping[str, tuple[str, ...]]

    @property
    def everything(self) -> tuple[str, ...]:
        return tuple(text for own in self.train.values() for text in own)


def write_experiment(folder: Path, data: Path) -> None:
    """Write the experiment file whose domains turn the records of `data` into texts."""
    domains = {name: _domain(data, **given) for name, given in DOMAINS.items()}
    # A domain's texts are read through an experiment, and no experiment is without a model.
    models = {"nobody": {"path": "nobody", "engine": "scripted"}}
    folder.mkdir(parents=True, exist_ok=True)
    told = yaml.safe_dump({"name": "moe-apart", "models": models, "domains": domains}, sort_keys=False)
    (folder / EXPERIMENT_FILE).write_text(told, encoding="utf-8")


def _domain(data: Path, *, task: str, file: str, columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    named = {"columns": dict(columns)} if columns else {}
    return {"task": task, "data": {"source": str((data / file).resolve())}, **named}


def expert_texts(max_texts: Mapping[str, int]) -> dict[str, tuple[TextsConfig, ...]]:
    """Each domain is one expert's."""
    return {
        name: (TextsConfig(experiment=EXPERIMENT_FILE, domain=name, max_texts=max_texts[name]),) for name in DOMAINS
    }


def read_texts(folder: Path, max_texts: Mapping[str, int]) -> Texts:
    """Read what `write_experiment` describes. Of the texts that nothing trains on, every other one is measured."""
    found = read_expert_texts(expert_texts(max_texts), folder, held_out_fraction=HELD_OUT_FRACTION)
    return Texts(
        train={name: one.train for name, one in found.items()},
        choosing={name: one.held_out[::2] for name, one in found.items()},
        measured={name: one.held_out[1::2] for name, one in found.items()},
    )


def byte_counts(texts: Mapping[str, tuple[str, ...]]) -> dict[str, list[int]]:
    """The bytes of each text, as `bits_per_byte` counts them."""
    return {name: [len(text.encode("utf-8", errors="replace")) for text in own] for name, own in texts.items()}
