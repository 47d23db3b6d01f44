"""What all tasks that read records one by one have in common: columns, ids, prompts, skipped records.

A subclass names its roles (what it needs of a record, and the columns where published files have it) and turns one
record into one example. `candidates` is cheap and `example` may be expensive: the limit is drawn between them.
"""

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from moe_ray.config.schema import DomainConfig, PromptStyle
from moe_ray.domains.example import Example, GradingValue, Record
from moe_ray.errors import ConfigError, DataError
from moe_ray.fingerprint import fingerprint
from moe_ray.prompts.messages import Message, Prompt, Template, as_text
from moe_ray.suggestions import choice_of

MISSING = object()

_PLACE = re.compile("[0-9]{1,9}")


def value_at(record: Record, column: str) -> Any:
    """Return the value of `column`, or `MISSING`.

    A column of that very name wins; else each dot leads into an object by its key or into a list by its number. Behind
    the end of a list, and inside of None, there is None: this record has nothing there, and others may.
    """
    return _value_in(record, column.split("."))


def _value_in(value: Any, parts: list[str]) -> Any:
    if not parts:
        return value
    if value is None:
        return None
    if isinstance(value, list | tuple):
        if not _PLACE.fullmatch(parts[0]):
            return MISSING
        return _value_in(value[int(parts[0])], parts[1:]) if int(parts[0]) < len(value) else None
    if not isinstance(value, Mapping):
        return MISSING
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        found = _value_in(value[key], parts[length:]) if key in value else MISSING
        if found is not MISSING:
            return found
    return MISSING


def is_empty(value: Any) -> bool:
    """True for what holds nothing: None, blank text, an empty list, and the NaN by which tables mark a missing cell."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


SAME_AS_ANOTHER = "the same as another record"

_NUM_HEX_OF_CONTENT_ID = 16


class RecordTask(ABC):
    """Base of the shipped tasks. `skipped` counts the records that gave no example, by reason.

    A record in which a role of `needed` is empty is skipped; elsewhere an empty role is an error. The defaults of the
    two prompts are named, so that they can be listed.
    """

    default_graders: tuple[str, ...] = ()
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    chat_default: ClassVar[str]
    completion_default: ClassVar[str]
    needed: ClassVar[frozenset[str]] = frozenset()
    known_settings: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, config: DomainConfig) -> None:
        self.name = name
        self.config = config
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []
        self._refuse_unknown("columns", config.columns, self.roles)
        self._refuse_unknown("settings", config.settings, self.known_settings)

    def where(self, key: str) -> str:
        """Return the name of one of this domain's keys in the experiment file."""
        return f"domains.{self.name}.{key}"

    def candidates(self, records: Iterable[Record]) -> Iterable[tuple[str, Record]]:
        """Yield (id, record) for every record that can become an example; count the others in `skipped`.

        Of equal records without an id the first is yielded.
        """
        seen: set[str] = set()
        for record in records:
            reason = self.skip_reason(record) or self._empty_reason(record)
            example_id = self.record_id(record) if reason is None else ""
            if reason is None and example_id in seen and self._column(record, "id") is None:
                reason = SAME_AS_ANOTHER
            if reason is None:
                seen.add(example_id)
                yield example_id, record
            else:
                self.skipped[reason] += 1

    def examples(self, records: Iterable[Record]) -> Iterable[Example]:
        """Turn records into examples; see `moe_ray.domains.example.Task`."""
        return (self.example(example_id, record) for example_id, record in self.candidates(records))

    @abstractmethod
    def example(self, example_id: str, record: Record) -> Example:
        """Turn one record into its example. Raises `DataError` when the record is malformed."""

    def check(self) -> None:  # noqa: B027 - a hook for subclasses
        """Raise `DataError` when the examples that were made show that the data cannot be used."""

    def supporting_records(self) -> list[Record]:
        """Return the records that are no examples, but that the prompts need."""
        return []

    def skip_reason(self, record: Record) -> str | None:  # noqa: ARG002 - a hook for subclasses
        """Say why `record` cannot become an example although it is well-formed; None when it can."""
        return None

    def record_id(self, record: Record) -> str:
        """Return the record's id, or a fingerprint of its content where the data has none."""
        column = self._column(record, "id")
        if column is None:
            content = {key: as_text(value) for key, value in record.items()}
            return fingerprint(content, num_hex=_NUM_HEX_OF_CONTENT_ID)
        example_id = as_text(value_at(record, column)).strip()
        if not example_id:
            raise DataError(
                f"a record has no id: column {column} is empty",
                where=self.where("data"),
                remedy="fix it, or name another column (columns: {id: COLUMN})",
            )
        return example_id

    def value(self, record: Record, role: str) -> Any:
        """Return what `record` holds for `role`. Raises `DataError` when the column is missing or empty."""
        column = self._column(record, role)
        if column is None:
            names = " or ".join(self._columns_of(role))
            raise DataError(
                f"{self._label(record)} has no column {names} (the {role})",
                where=self.where(f"columns.{role}"),
                remedy=f"name the right one under columns; available: {', '.join(record)}; "
                "a nested one is a path, such as answer.label or answers.0.text",
            )
        value = value_at(record, column)
        if is_empty(value):
            raise DataError(
                f"{self._label(record)}: column {column} (the {role}) is empty",
                where=self.where("data"),
                remedy="fix or remove that record",
            )
        return value

    def text(self, record: Record, role: str) -> str:
        """Return a required text, with plain line ends and without space around it."""
        return as_text(self.value(record, role)).strip()

    def optional(self, record: Record, role: str) -> Any:
        """Return what `record` holds for `role`; None when nothing does and no column was named for it."""
        column = self._column(record, role)
        if column is None and role in self.config.columns:
            self.value(record, role)
        return None if column is None else value_at(record, column)

    def template(self, key: str, default: str, available: Iterable[str] | None = None) -> Template:
        """Return the template `prompt.KEY`, or the task's own; checked when the names are known beforehand."""
        given: str | None = getattr(self.config.prompt, key)
        template = Template(default if given is None else given, where=self.where(f"prompt.{key}"))
        if available is not None:
            template.check(tuple(available))
        return template

    def chat(
        self, text: str, *, choices: tuple[str, ...] = (), reference: str | None, stop: tuple[str, ...] = ()
    ) -> Prompt:
        """Return a chat prompt of the configured system message, if any, and one user message."""
        system = self.config.prompt.system
        messages = [Message(role="system", content=system)] if system else []
        messages.append(Message(role="user", content=text))
        return Prompt(messages=tuple(messages), stop=self._stop(stop), choices=choices, reference=reference)

    def completion(
        self, text: str, *, choices: tuple[str, ...] = (), reference: str | None, stop: tuple[str, ...] = ()
    ) -> Prompt:
        """Return a completion prompt: one text to be continued."""
        messages = (Message(role="user", content=text),)
        return Prompt(messages=messages, stop=self._stop(stop), choices=choices, reference=reference)

    def make(
        self,
        example_id: str,
        prompts: Mapping[PromptStyle, Prompt],
        *,
        reference: str,
        grading: Mapping[str, GradingValue],
    ) -> Example:
        """Return the example of this domain that the parts make."""
        return Example(id=example_id, domain=self.name, prompts=prompts, reference=reference, grading=grading)

    def _stop(self, default: tuple[str, ...]) -> tuple[str, ...]:
        given = self.config.prompt.stop
        return default if given is None else given

    def _columns_of(self, role: str) -> tuple[str, ...]:
        named = self.config.columns.get(role)
        return (named,) if named else self.roles[role]

    def _column(self, record: Record, role: str) -> str | None:
        columns = self._columns_of(role)
        return next((column for column in columns if value_at(record, column) is not MISSING), None)

    def _empty_reason(self, record: Record) -> str | None:
        """Say which needed role is empty; None where none is, and where a column is missing, which is an error."""
        for role in self.roles:
            column = self._column(record, role) if role in self.needed else None
            if column is not None and is_empty(value_at(record, column)):
                return f"the {role} is empty"
        return None

    def _label(self, record: Record) -> str:
        column = self._column(record, "id")
        return f"record {value_at(record, column)}" if column else f"the record of columns {', '.join(record)}"

    def _refuse_unknown(self, key: str, given: Mapping[str, object], known: Iterable[str]) -> None:
        unknown = next((name for name in given if name not in set(known)), None)
        if unknown is not None:
            raise ConfigError(
                f"task {self.config.task} has no {unknown!r} among its {key}",
                where=self.where(f"{key}.{unknown}"),
                remedy=choice_of(unknown, known) if set(known) else f"leave {key} out",
            )
