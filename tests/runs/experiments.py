"""Experiments with scripted models, and what a run of them left unscored."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.scoring.score import read_scores, scores_of_table
from moe_ray.store.run_directory import RunDirectory

DOMAINS = ("first", "second")


# Of six decisions two are right, one is wrong, and three are not to be read.
REPLIES = {"t0": "yes", "t1": "no", "t2": "no"}


def write(
    folder: Path,
    models: Mapping[str, Mapping[str, Any]],
    *,
    baseline: str | None = None,
    experts: Mapping[str, str] | None = None,
    **more: Any,
) -> LoadedExperiment:
    """Write and load an experiment of two decision domains with six examples each."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [{"id": f"t{i}", "question": f"Is {i} even?", "label": ("yes", "no")[i % 2]} for i in range(6)]
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    domain = {
        "task": "decision",
        "data": {"source": "./data.jsonl"},
        "columns": {"id": "id", "question": "question", "label": "label"},
        "choices": ["yes", "no"],
    }
    experiment = {
        "name": "names",
        "models": {
            name: {"engine": "scripted", "engine_settings": {"replies": REPLIES}, **model}
            for name, model in models.items()
        },
        "baseline": baseline,
        "domains": {
            name: domain | ({"expert": experts[name]} if experts and name in experts else {}) for name in DOMAINS
        },
        "decoding": {"max_new_tokens": 8},
        "runtime": {"shard_size": 4, "batch_size": 2, "probe_examples": 0},
        "output": {"results_dir": str(folder / "results")},
        **more,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return load_experiment(path)


def unscored(run: RunDirectory) -> set[tuple[str, str | None]]:
    """What was not graded. An answer that cannot be read was: it is the model's failure."""
    rows = scores_of_table(read_scores(run.scores_path)[0])
    return {(row.model, row.reason) for row in rows if row.value is None and not row.failed}
