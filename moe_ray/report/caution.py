"""One thing that a reader must know before believing a number."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["warning", "note"]
FEW_EXAMPLES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """A warning changes what a number means; a note is background. A note's title is what it is about, or empty."""

    level: Level
    title: str
    text: str

    @property
    def line(self) -> str:
        """Title and text."""
        return f"{self.title}: {self.text}" if self.title else self.text
