"""Domains in YAML alone: the task kinds decision, free_text and code, over columns that the experiment file names.

`columns` maps a role to a column (`question: title`); a role that is not mapped is looked for under its own name.
Templates may name every column of the data, and every role.

decision    roles question, label, and if wanted id, context, reference; `choices` lists the labels
free_text   roles question, reference, and if wanted id, context
code        roles question, reference (a solution), tests, and if wanted id, setup, test_imports, entry_point, prefix

Without an id column a record's id is a fingerprint of its content.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.code_examples import CHAT as CODE_CHAT
from moe_ray.domains.code_examples import CodeRecordTask
from moe_ray.domains.example import Example, Record
from moe_ray.domains.record_task import RecordTask
from moe_ray.errors import ConfigError, DataError
from moe_ray.prompts.messages import Template, as_text

DECISION_CHAT = """\
{context}{question}

Begin your answer with one of: {choices}."""

DECISION_COMPLETION = """\
{context}Question: {question} ({choices})

Answer:"""

FREE_TEXT_CHAT = "{context}{question}"

FREE_TEXT_COMPLETION = """\
{context}Question: {question}

Answer:"""

CODE_COMPLETION = """\
# Task: {question}
# Tests:
{tests}

# Solution:
"""

PREFIX_CHAT = """\
Complete this Python program:

```python
{prefix}
```

Answer with one fenced code block (```python) that holds the whole program."""

# Where the Codex paper ends a completion, then where an answer turns from code to text.
PREFIX_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\nassert ", "\n```")


_NUMBER = re.compile(r"(\d{1,9})(\.0+)?", re.ASCII)


def _folded(label: str) -> str:
    """`label` without what makes no difference: capitals, and how many spaces stand where."""
    return " ".join(label.split()).casefold()


class _ColumnsTask(RecordTask):
    """What the kinds share: the values that a template may name are the roles' and the columns'."""

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        self._chat = self.template("template", self.chat_default)
        self._completion = self.template("completion_template", self.completion_default)

    def _prompts(self, record: Record, roles: Mapping[str, Any]) -> tuple[str, str]:
        """Return the chat and the completion text. In the experiment file's templates a column goes before a role."""
        given = self.config.prompt
        return (
            self._render(self._chat, record, roles, given.template is not None),
            self._render(self._completion, record, roles, given.completion_template is not None),
        )

    def _render(self, template: Template, record: Record, roles: Mapping[str, Any], is_given: bool) -> str:
        values = {**roles, **record} if is_given else roles
        template.check(tuple(values), kind=DataError)
        return template.render(values)

    def _asked(self, record: Record) -> dict[str, Any]:
        context = as_text(self.optional(record, "context")).strip()
        return {"question": self.text(record, "question"), "context": f"{context}\n\n" if context else ""}


class DecisionTask(_ColumnsTask):
    """One of a few labels answers the question."""

    default_graders = ("decision", "decision_loglik", "bits_per_byte")
    needed = frozenset({"question", "label"})
    chat_default = DECISION_CHAT
    completion_default = DECISION_COMPLETION
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("id",),
        "question": ("question",),
        "context": ("context",),
        "label": ("label",),
        "reference": ("reference",),
    }

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        folded = [_folded(choice) for choice in config.choices]
        if len(folded) < 2 or len(set(folded)) < len(folded) or not all(folded):
            raise ConfigError(
                f"a decision task needs two or more different choices, not {list(config.choices)}",
                where=self.where("choices"),
                remedy="list the labels: choices: [guilty, not guilty] (upper and lower case are the same)",
            )

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one record into its example. Its reference text is the label's where the data has no other."""
        label = self._gold(example_id, record)
        choices = self.config.choices
        asked = {**self._asked(record), "choices": ", ".join(choices)}
        reference = as_text(self.optional(record, "reference")).strip() or label
        chat, completion = self._prompts(record, asked)
        return self.make(
            example_id,
            {
                "chat": self.chat(chat, choices=choices, reference=reference),
                "completion": self.completion(
                    completion,
                    choices=tuple(f" {choice}" for choice in choices),
                    reference=f" {reference}",
                    stop=("\n\nQuestion:",),
                ),
            },
            reference=reference,
            grading={"label": label, "choices": list(choices), "question": asked["question"]},
        )

    def _gold(self, example_id: str, record: Record) -> str:
        """Return the choice that the label names; capitals and spaces make no difference, a number is a place."""
        value, choices = self.value(record, "label"), self.config.choices
        by_name = {_folded(choice): choice for choice in choices}
        label = by_name.get(_folded(as_text(value)))
        if label is None and isinstance(value, bool):
            label = by_name.get("yes" if value else "no")
        elif label is None and (number := _NUMBER.fullmatch(as_text(value).strip())):
            label = self._choice_at(int(number[1]))
        if label is None:
            raise self._no_choice(example_id, value)
        return label

    def _choice_at(self, place: int) -> str | None:
        """The choice of a class number, counted from 0. A note shows the order, which nothing else can check."""
        choices = self.config.choices
        if place >= len(choices):
            return None
        note = f"labels are numbers: {', '.join(f'{at} is {choice}' for at, choice in enumerate(choices))}"
        if note not in self.notes:
            self.notes.append(note)
        return choices[place]

    def _no_choice(self, example_id: str, value: Any) -> DataError:
        choices = ", ".join(self.config.choices)
        remedies = {
            bool: f"choices are {choices}; true and false are read as yes and no, or list them: choices: [true, false]",
            int: f"choices are {choices}; a number counts them from 0: list all classes of the data, in their order",
        }
        return DataError(
            f"record {example_id}: the label {as_text(value)!r} is not one of the choices",
            where=self.where("choices"),
            remedy=remedies.get(type(value), f"choices are {choices}; add the label or correct the record"),
        )


class FreeTextTask(_ColumnsTask):
    """A text answers the question, and is compared with a reference text."""

    default_graders = ("rouge_l", "completeness", "relevance", "bits_per_byte")
    needed = frozenset({"question", "reference"})
    chat_default = FREE_TEXT_CHAT
    completion_default = FREE_TEXT_COMPLETION
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("id",),
        "question": ("question",),
        "context": ("context",),
        "reference": ("reference",),
    }

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one record into its example."""
        asked = self._asked(record)
        reference = self.text(record, "reference")
        chat, completion = self._prompts(record, asked)
        return self.make(
            example_id,
            {
                "chat": self.chat(chat, reference=reference),
                "completion": self.completion(completion, reference=f" {reference}", stop=("\n\nQuestion:",)),
            },
            reference=reference,
            grading={"question": asked["question"]},
        )


class CodeTask(_ColumnsTask, CodeRecordTask):
    """A program answers the task, and tests decide.

    With the role `prefix` the answer completes the beginning of a program (HumanEval's prompt). The default prompts
    then show that beginning and no tests.
    """

    default_graders = ("code", "bits_per_byte")
    chat_default = CODE_CHAT
    completion_default = CODE_COMPLETION
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("id",),
        "question": ("question",),
        "reference": ("reference",),
        "tests": ("tests",),
        "setup": ("setup",),
        "test_imports": ("test_imports",),
        "entry_point": ("entry_point",),
        "prefix": (),  # only where it is named: it changes what is asked
    }

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        self._completes = "prefix" in config.columns
        if self._completes:
            self._chat = self.template("template", PREFIX_CHAT)
            self._completion = self.template("completion_template", "{prefix}")

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one record into its example."""
        values = {**self.code_values(record), "entry_point": self.entry_point(record) or ""}
        prefix = self.prefix(record)
        chat, _ = self._prompts(record, {**values, "prefix": prefix.strip("\n")})
        _, completion = self._prompts(record, {**values, "prefix": prefix})
        stop = PREFIX_STOP if self._completes else ("\n# Task:", "\nassert ")
        return self.code_example(example_id, record, chat=chat, completion=completion, stop=stop)
