"""Prompts: messages, and the continuations that are measured after them."""

from dataclasses import dataclass
from typing import Literal

from moe_ray.characters import whole_characters

Role = Literal["system", "user", "assistant"]


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

    `style` replaces the model's own prompt style, and `token_ids` all text: the model reads exactly these.

    `choices` and `reference` are the continuations whose log-likelihood is measured after the prompt, spelled as
    the style needs them (a completion's begin with a space or a line break). `reference` is None where a
    domain has no reference text.
    """

    messages: tuple[Message, ...]
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    reference: str | None = None
    style: Literal["chat", "completion"] | None = None
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("stop", "choices"):
            object.__setattr__(self, name, tuple(whole_characters(text, "?") for text in getattr(self, name)))
        if self.reference is not None:
            object.__setattr__(self, "reference", whole_characters(self.reference, "?"))

    @property
    def continuations(self) -> tuple[str, ...]:
        """The choices, then the reference if there is one."""
        return self.choices if self.reference is None else (*self.choices, self.reference)
