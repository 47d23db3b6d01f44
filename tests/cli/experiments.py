"""Small experiments for commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[dict[str, Any], Path], None]


ROWS = [{"id": f"t{i}", "question": f"Is {i} even?", "label": "yes" if i % 2 == 0 else "no"} for i in range(8)]


def experiment() -> dict[str, Any]:
    """A right experiment, which every case spoils in one place."""
    return {
        "name": "spoilt",
        "models": {"base": {"path": "scripted/base", "engine": "scripted", "engine_settings": {"text": "yes"}}},
        "baseline": "base",
        "domains": {
            "parity": {
                "task": "decision",
                "data": {"source": "./rows.jsonl"},
                "columns": {"id": "id", "question": "question", "label": "label"},
                "choices": ["yes", "no"],
            }
        },
        "likelihood": False,
    }


def data(text: str) -> Change:
    def change(config: dict[str, Any], folder: Path) -> None:
        (folder / "rows.jsonl").write_text(text, encoding="utf-8")

    return change


def rows(*changed: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in [*ROWS, *changed])
