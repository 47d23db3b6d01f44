"""Made-up texts of two experts as files, and the config of a gate that is trained on them."""

import json
from pathlib import Path
from typing import Any

from tests.routing.queries import queries

EXPERTS = ("legal", "code")


def write_texts(folder: Path, num_each: int = 100) -> None:
    """Write EXPERT.jsonl for each expert, and unseen-EXPERT.jsonl with texts that are held out."""
    for expert in EXPERTS:
        for name, first in ((expert, 0), (f"unseen-{expert}", 50_000)):
            texts = queries([expert], num_each, first=first)
            lines = [json.dumps({"text": text.text}) for text in texts]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def gate_settings(base_model: Path, **changes: Any) -> dict[str, Any]:
    """The config that stands beside the files of `write_texts`."""
    data = {
        expert: [{"source": f"./{expert}.jsonl"}, {"source": f"./unseen-{expert}.jsonl", "use": "test"}]
        for expert in EXPERTS
    }
    training = {"hidden_sizes": [16], "epochs": 12, "patience": 12, "batch_size": 8, "learning_rate": 0.02}
    return {"base_model": str(base_model), "data": data, **training, **changes}


def write_gate_config(folder: Path, base_model: Path, **changes: Any) -> Path:
    """Write texts and config into `folder`, and return the config's path."""
    write_texts(folder)
    path = folder / "gate.json"
    path.write_text(json.dumps(gate_settings(base_model, **changes)))
    return path
