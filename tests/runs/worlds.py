"""A small experiment with a router: two domains that words tell apart, scripted experts, a baseline."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from moe_ray.config.load import LoadedExperiment, load_experiment
from tests.execution.experiments import RUNTIME, scripted

WORDS = {
    "garden": ("rose", "soil", "seed", "tulip", "hedge", "lawn", "fern", "bulb", "moss", "ivy"),
    "harbour": ("ship", "anchor", "crane", "dock", "sail", "tide", "cargo", "buoy", "mast", "rope"),
}
NUM_ASKED = 6


def question(domain: str, at: int) -> str:
    """A question of `domain`; no two of the first 90 are alike."""
    words = WORDS[domain]
    first, second = words[at % 10], words[(at // 10 + at + 1) % 10]
    return f"number {at} asks about {first} and {second} and {words[(3 * at + 2) % 10]}"


def write_world(folder: Path, *, misplaced: Sequence[int] = (), num_texts: int = 60, **router: Any) -> LoadedExperiment:
    """Write and load the experiment. The garden's examples of `misplaced` places speak of the harbour.

    The run evaluates the first `NUM_ASKED` questions of each domain; the router gets `num_texts` others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for domain in WORDS:
        asked = [question(domain, at) for at in range(NUM_ASKED)]
        if domain == "garden":
            asked = [question("harbour", 80 + at) if at in misplaced else text for at, text in enumerate(asked)]
        _write(folder / f"{domain}.jsonl", asked)
        _write(folder / f"{domain}-texts.jsonl", [question(domain, 10 + at) for at in range(num_texts)])
    experiment: dict[str, Any] = {
        "name": "routed",
        "models": {name: {**scripted(), "path": f"scripted/{name}"} for name in ("gardener", "sailor", "general")},
        "baseline": "general",
        "likelihood": False,
        "domains": {"garden": _domain("garden", "gardener"), "harbour": _domain("harbour", "sailor")},
        "router": {"kind": "tfidf", "data": {name: {"source": f"./{name}-texts.jsonl"} for name in WORDS}, **router},
        "decoding": {"max_new_tokens": 8},
        "runtime": RUNTIME,
        "output": {"results_dir": str(folder / "results")},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return load_experiment(path)


def _domain(domain: str, expert: str) -> dict[str, Any]:
    return {
        "task": "decision",
        "expert": expert,
        "data": {"source": f"./{domain}.jsonl"},
        "columns": {"id": "id", "question": "question", "label": "label"},
        "choices": ["yes", "no"],
        "prompt": {"template": "{question}"},
    }


def _write(path: Path, questions: Sequence[str]) -> None:
    labels = ("yes", "no")
    rows = ({"id": f"{path.stem}-{at}", "question": text, "label": labels[at % 2]} for at, text in enumerate(questions))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
