"""Directories that bring code of their own, and what tells whether any of it ran."""

import json
from pathlib import Path
from typing import Any

import pytest

from moe_ray.routing import files
from moe_ray.routing.files import weights_fingerprint

MODULE = "evil"
CODE = """
from pathlib import Path
Path({canary!r}).touch()
from transformers import {base} as Base

class Evil(Base):
    model_type = "evil"
"""


def arm(directory: Path, canary: Path, *, base: str = "PreTrainedConfig") -> None:
    """Put a module into `directory` that leaves `canary` behind when it is imported."""
    (directory / f"{MODULE}.py").write_text(CODE.format(canary=str(canary), base=base))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def seal(directory: Path) -> None:
    """Write the fingerprint of the files as they are now into router.json, as a forger would."""
    change_json(directory / files.ROUTER_FILE, weights=weights_fingerprint(directory))


def answer_yes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer yes to whatever is asked on standard input; return the list that the questions go into."""
    asked: list[str] = []

    def answered(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answered)
    return asked
