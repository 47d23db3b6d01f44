"""Prompts: messages, the continuations that are measured after them, and the templates that fill them in."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal

from moe_ray.characters import whole_characters
from moe_ray.errors import ConfigError, UserError

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


class Template:
    """A prompt template. `where` names its key in the experiment file, for errors."""

    def __init__(self, text: str, *, where: str) -> None:
        self.where = where
        try:
            self._parts = [_part(*part) for part in Formatter().parse(text)]
        except ValueError as error:
            raise ConfigError(
                f"malformed template: {error}", where=where, remedy="write {column}; double a brace to mean it: {{ }}"
            ) from error

    @property
    def names(self) -> tuple[str, ...]:
        """The names in braces, in their order."""
        return tuple(name for _, name in self._parts if name is not None)

    def check(self, available: Collection[str], *, kind: type[UserError] = ConfigError) -> None:
        """Raise an error of `kind` when the template names something that is not `available`."""
        missing = next((name for name in self.names if name not in available), None)
        if missing is not None:
            raise kind(
                f"the template names {{{missing}}}, which is not a column of this file",
                where=self.where,
                remedy=f"available: {', '.join(sorted(available))}",
            )

    def render(self, values: Mapping[str, Any]) -> str:
        """Fill the template in. Braces inside of values stay as they are."""
        return "".join(text + ("" if name is None else as_text(values[name])) for text, name in self._parts)


def as_text(value: Any) -> str:
    """Return a column's value as text that UTF-8 can hold, with plain line ends.

    None is empty; the items of a list are paragraphs; a lone surrogate (half a character of cut JSON) becomes a
    question mark.
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "\n\n".join(as_text(item) for item in value)
    text = str(value).replace("\r\n", "\n").replace("\r", "\n")
    return whole_characters(text, "?")


def _part(text: str, name: str | None, form: str | None, conversion: str | None) -> tuple[str, str | None]:
    if name == "" or form or conversion:
        raise ValueError("braces hold the name of a column and nothing else")
    return text, name
