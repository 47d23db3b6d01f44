"""An example: one item of a domain, with everything that a model is asked and a grader needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from moe_ray.config.schema import PromptStyle

Role = Literal["system", "user", "assistant"]
GradingValue = str | int | float | bool | None | list[str] | dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


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
