"""The counts of tokens of one call."""

from dataclasses import dataclass, field
from typing import Any

from moe_ray.engines.base import Delta, Generation


@dataclass(slots=True)
class TokenCounts:
    """Tokens of all choices of a call. A prompt with several choices counts once.

    Of reasoning tokens, those of the choices whose engine counts them; None where none does.
    """

    choices_per_prompt: int
    completion: int = 0
    reasoning: int | None = None
    _prompts: dict[int, int] = field(default_factory=dict)

    def add(self, index: int, end: Generation | Delta) -> None:
        """Count the choice `index`, of which `end` is the whole or the last delta."""
        place = index // self.choices_per_prompt
        self._prompts[place] = max(self._prompts.get(place, 0), end.num_prompt_tokens or 0)
        self.completion += end.num_completion_tokens or 0
        if end.num_reasoning_tokens is not None:
            self.reasoning = (self.reasoning or 0) + end.num_reasoning_tokens

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(self._prompts.values())

    def body(self) -> dict[str, Any]:
        """Return the object `usage` of a chat or a completion."""
        found: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }
        if self.reasoning is not None:
            found["completion_tokens_details"] = {"reasoning_tokens": self.reasoning}
        return found

    def response_body(self) -> dict[str, Any]:
        """Return the object `usage` of a response."""
        return {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning or 0},
            "total_tokens": self.prompt + self.completion,
        }
