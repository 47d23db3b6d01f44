"""Small scripted experiments, and an observer that remembers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.store.answers import CONTENT_COLUMNS
from moe_ray.store.run_directory import RunDirectory

RUNTIME: dict[str, Any] = {"cpu_threads": 1, "cpu_slots": 1, "batch_size": 2, "shard_size": 4, "probe_examples": 0}


def scripted(**settings: Any) -> dict[str, Any]:
    """A model of the scripted engine, with its settings."""
    return {"path": "scripted/model", "engine": "scripted", "engine_settings": settings}


def write_experiment(
    folder: Path,
    models: Mapping[str, Mapping[str, Any]],
    *,
    num_examples: int = 8,
    runtime: Mapping[str, Any] | None = None,
    **more: Any,
) -> LoadedExperiment:
    """Write an experiment with one decision domain, which every model answers, and load it.

    Examples are "t0", "t1" and so on. Each has one generated answer, and with `likelihood` one measured one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = ("yes", "no")
    records = [{"id": f"t{i}", "question": f"Is {i} even?", "label": labels[i % 2]} for i in range(num_examples)]
    (folder / "tickets.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    experiment: dict[str, Any] = {
        "name": "scripted",
        "models": {name: {**model, "path": f"scripted/{name}"} for name, model in models.items()},
        "matrix": "full",
        "likelihood": False,
        "domains": {
            "parity": {
                "task": "decision",
                "data": {"source": "./tickets.jsonl"},
                "columns": {"id": "id", "question": "question", "label": "label"},
                "choices": list(labels),
                "prompt": {"template": "{question}"},
            }
        },
        "decoding": {"max_new_tokens": 8},
        "runtime": {**RUNTIME, **(runtime or {})},
        "output": {"results_dir": str(folder / "results")},
        **more,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return load_experiment(path)


def content(run: RunDirectory) -> list[dict[str, Any]]:
    """The content columns of all answers, sorted by key; fails when a cell is there twice."""
    table = run.answers_table(list(CONTENT_COLUMNS)).sort_by("key")
    keys = table["key"].to_pylist()
    assert len(keys) == len(set(keys)), "a cell is there twice"
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@dataclass
class Recorder:
    """An observer that keeps the events. `on_committed` may raise, as Ctrl-C would."""

    on_committed: Callable[[int], None] = lambda _num_shards: None
    states: list[tuple[str, str, str]] = field(default_factory=list)
    commits: list[tuple[str, int]] = field(default_factory=list)
    given_up: list[tuple[str, int, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def stage(self, text: str) -> None: ...

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def training(self, step: int, num_steps: int, detail: str) -> None: ...

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None: ...

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:
        self.states.append((replica, state, detail))

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:
        self.commits.append((model, num_cells))
        self.on_committed(len(self.commits))

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        self.given_up.append((model, num_cells, reason))

    def count(self, state: str) -> int:
        """Times that any replica came into `state`."""
        return sum(seen == state for _, seen, _ in self.states)
