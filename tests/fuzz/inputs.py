"""The experiment and the records that are damaged."""

import json
from typing import Any

ROWS = [{"id": f"t{i}", "question": f"Is {i} even?", "label": "yes" if i % 2 == 0 else "no"} for i in range(8)]


EXPERIMENT: dict[str, Any] = {
    "name": "spoilt",
    "description": "one of everything",
    "models": {
        "base": {"path": "scripted/base", "engine": "scripted", "engine_settings": {"text": "yes"}, "notes": ["a"]},
        "desk": {"path": "scripted/desk", "engine": "scripted", "prompt_style": "completion", "gpus": 0.5},
    },
    "baseline": "base",
    "domains": {
        "parity": {
            "task": "decision",
            "expert": "desk",
            "data": {"source": "./rows.jsonl", "split": "test"},
            "columns": {"id": "id", "question": "question", "label": "label"},
            "choices": ["yes", "no"],
            "prompt": {"system": "Say yes or no.", "template": "{question}", "completion_template": "{question}:"},
            "graders": ["decision"],
        }
    },
    "likelihood": False,
    "decoding": {"temperature": 0.0, "max_new_tokens": 4},
    "runtime": {"gpus": 0, "sandbox": {"timeout_s": 4.0}},
}


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
