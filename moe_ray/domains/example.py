"""An example: one item of a domain, with everything that a model is asked and a grader needs.

Texts of prompts and references hold whole characters alone, whatever task made them: requests, tokenizers and files
take no lone surrogates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from moe_ray.characters import whole_characters
from moe_ray.config.schema import PromptStyle

Role = Literal["system", "user", "assistant"]
GradingValue = str | int | float | bool | None | list[str] | dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", whole_characters(self.content, "?"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is asked, in one prompt style.

    For `chat` the messages go through the tokenizer's chat template; for `completion` there is one user
    message, whose content is the whole text to be continued.

    `choices` and `reference` are the continuations whose log-likelihood is measured after the prompt, spelled as
    the style needs them (a completion's begin with a space or a line break). `reference` is None where a
    domain has no reference text.
    """

    messages: tuple[Message, ...]
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    reference: str | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "choices"):
            object.__setattr__(self, name, tuple(whole_characters(text, "?") for text in getattr(self, name)))
        if self.reference is not None:
            object.__setattr__(self, "reference", whole_characters(self.reference, "?"))

    @property
    def continuations(self) -> tuple[str, ...]:
        """The choices, then the reference if there is one."""
        return self.choices if self.reference is None else (*self.choices, self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One item of a domain.

    `id` is unique in its domain and comes from the data, never from a position. `reference` is the text a good
    answer is held against. `grading` holds what this domain's graders need beyond it (the gold label, tests).
    """

    id: str
    domain: str
    prompts: Mapping[PromptStyle, Prompt]
    reference: str
    grading: Mapping[str, GradingValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "reference"):
            object.__setattr__(self, name, whole_characters(getattr(self, name), "?"))
