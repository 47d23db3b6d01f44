"""The texts that a router is trained and tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moe_ray.config.schema import OTHER
from moe_ray.domains.example import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """A query and where it belongs: a domain, or `OTHER`. `source` names the data set that it came from."""

    id: str
    text: str
    label: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTexts:
    """All texts of a router. No two parts hold the same text, or nearly the same.

    `labels` are the domains in the order of the experiment, then `OTHER` if the router learns it. `train` fits the
    weights; `validation` ends training and sets temperatures and threshold; `test` is looked at once, afterwards.
    `foreign` are queries of no domain, by set, that the router is tested against and never sees before.
    """

    labels: tuple[str, ...]
    train: tuple[LabelledText, ...]
    validation: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]
    foreign: Mapping[str, tuple[LabelledText, ...]]

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(label for label in self.labels if label != OTHER)


def codes(texts: Sequence[LabelledText], labels: Sequence[str]) -> list[int]:
    """The place of each text's label among `labels`."""
    places = {label: at for at, label in enumerate(labels)}
    return [places[text.label] for text in texts]


def query_of(example: Example, query: str) -> str:
    """What a user would type to ask `example`: its question alone, or with query "prompt" all that a model is asked.

    A task of the user's own that keeps no question under `grading["question"]` gives its last user message.
    """
    question = example.grading.get("question")
    if query == "question" and isinstance(question, str) and question.strip():
        return question
    prompt = example.prompts.get("chat") or next(iter(example.prompts.values()))
    return next(message.content for message in reversed(prompt.messages) if message.role == "user")
