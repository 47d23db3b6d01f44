"""An example is one item of a domain; a task turns the records of a data set into examples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from moe_ray.characters import whole_characters
from moe_ray.config.schema import DomainConfig, PromptStyle
from moe_ray.prompts.messages import Prompt

GradingValue = str | int | float | bool | None | list[str] | dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One item of a domain.

    `id` is unique in its domain and comes from the data, never from a position. `reference` is the text that
    answers are compared with. `grading` holds what this domain's graders need beyond it (the gold label, tests).
    """

    id: str
    domain: str
    prompts: Mapping[PromptStyle, Prompt]
    reference: str
    grading: Mapping[str, GradingValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "reference"):
            object.__setattr__(self, name, whole_characters(getattr(self, name), "?"))


Record = Mapping[str, Any]


class Task(Protocol):
    """How the records of a data set become examples. A class named in the YAML implements this.

    It is constructed as `Task(name, config)` with the domain's name and its section of the experiment file.
    """

    default_graders: tuple[str, ...]

    def __init__(self, name: str, config: DomainConfig) -> None: ...

    def examples(self, records: Iterable[Record]) -> Iterable[Example]:
        """Turn records, in the data set's published format, into examples.

        Raises `DataError` naming the record and the column when a record is malformed.
        """
        ...


def query_of(example: Example, query: str) -> str:
    """What a user would type to ask `example`: its question alone, or with query "prompt" all that a model is asked.

    A task of the user's own that keeps no question under `grading["question"]` gives its last user message.
    """
    question = example.grading.get("question")
    if query == "question" and isinstance(question, str) and question.strip():
        return question
    prompt = example.prompts.get("chat") or next(iter(example.prompts.values()))
    return next(message.content for message in reversed(prompt.messages) if message.role == "user")
