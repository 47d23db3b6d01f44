"""The three domains' texts: what is trained on, what settings are chosen by, and what is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moe_ray.moe.btx.request import TextsConfig
from moe_ray.moe.btx.texts import read_expert_texts

FILES = {
    "coding": "code/new_codealpaca.json",
    "math": "ood/gsm8k_train.jsonl",
    "biomedical": "biomedical/medquad_4000.jsonl",
}
DOMAINS = tuple(FILES)
TASKS = {"coding": "coding", "math": "math"}
"""Tasks whose records become a question with its answer."""
COLUMNS = {"biomedical": "answer"}
"""Domains whose texts are a column as it stands."""
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
    domains = {name: {"task": task, "data": {"source": str(_file(data, name))}} for name, task in TASKS.items()}
    # A domain's texts are read through an experiment, and no experiment is without a model.
    models = {"models": {"nobody": {"path": "nobody", "engine": "scripted"}}, "baseline": "nobody"}
    experiment = {"name": "moe-apart", **models, "domains": domains}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EXPERIMENT_FILE).write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")


def _file(data: Path, domain: str) -> Path:
    return (data / FILES[domain]).resolve()


def expert_texts(data: Path, max_texts: Mapping[str, int]) -> dict[str, tuple[TextsConfig, ...]]:
    """Each domain is one expert's. The experiment file is `write_experiment`'s, below the folder that is read from."""
    found: dict[str, tuple[TextsConfig, ...]] = {}
    for name in DOMAINS:
        given: dict[str, Any] = {"experiment": EXPERIMENT_FILE, "domain": name}
        if name in COLUMNS:
            given = {"source": str(_file(data, name)), "column": COLUMNS[name]}
        found[name] = (TextsConfig(**given, max_texts=max_texts[name]),)
    return found


def read_texts(folder: Path, experts: Mapping[str, tuple[TextsConfig, ...]]) -> Texts:
    """Read the texts of `experts` from `folder`. Of those that nothing trains on, a third is for choosing."""
    found = read_expert_texts(experts, folder, held_out_fraction=HELD_OUT_FRACTION)
    return Texts(
        train={name: one.train for name, one in found.items()},
        choosing={name: one.held_out[::3] for name, one in found.items()},
        measured={name: _without_thirds(one.held_out) for name, one in found.items()},
    )


def _without_thirds(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text for at, text in enumerate(texts) if at % 3)


def byte_counts(texts: Mapping[str, tuple[str, ...]]) -> dict[str, list[int]]:
    """The bytes of each text, as `bits_per_byte` counts them."""
    return {name: [len(text.encode("utf-8", errors="replace")) for text in own] for name, own in texts.items()}
