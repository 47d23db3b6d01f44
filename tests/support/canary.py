"""Code in a checkpoint that leaves a trace when it runs."""

from collections.abc import Callable
from pathlib import Path

from tests.routing.hostile import MODULE

TOKENIZER_MAP = {"AutoTokenizer": [f"{MODULE}.Evil", f"{MODULE}.Evil"]}


class Touch:
    """A pickle that leaves a file behind where it is loaded."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, (f"open({str(self._canary)!r}, 'w')",)
