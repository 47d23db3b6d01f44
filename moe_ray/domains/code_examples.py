"""From a programming task with tests to an example, for any column names."""

import ast
from collections import Counter
from typing import Any

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example, GradingValue, Record
from moe_ray.domains.programs import (
    MAX_PARSED_CHARS,
    MAX_TEST_CHARS,
    UnusableTestsError,
    complete,
    definitions,
    entry_name,
    parse,
    runnable_tests,
)
from moe_ray.domains.record_task import RecordTask
from moe_ray.errors import DataError
from moe_ray.prompts.messages import as_text

CHAT = """\
Write a Python program for this task:

{question}

It must pass these tests:

```python
{tests}
```

Answer with one fenced code block (```python) that holds the whole program, without the tests."""


class CodeRecordTask(RecordTask):
    """A task whose examples are programming tasks with tests.

    Roles: question, reference, tests; setup, test_imports, entry_point and prefix where the task has them.
    """

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        self._num_made = 0
        self._unusable: list[tuple[str, UnusableTestsError]] = []

    def code_values(self, record: Record) -> dict[str, str]:
        """Return what the templates of a code domain may name: the question, and the tests, one after the other."""
        return {"question": self.question(record), "tests": "\n".join(self.tests(record))}

    def question(self, record: Record) -> str:
        """Return the task as text: the beginning of the program where the data says nothing else."""
        prefix = self.prefix(record)
        if prefix and "question" not in self.config.columns:
            return prefix.strip()
        return self.text(record, "question")

    def prefix(self, record: Record) -> str:
        """Return the beginning of the program, which an answer completes, as it is; empty where there is none."""
        return as_text(self.optional(record, "prefix")) if "prefix" in self.roles else ""

    def entry_point(self, record: Record) -> str | None:
        """Return the name of the function under test; None where the data does not say it."""
        return (as_text(self.optional(record, "entry_point")).strip() or None) if "entry_point" in self.roles else None

    def tests(self, record: Record) -> list[str]:
        """Return the published tests: a list's items, or one text; of a text that spells a list, its items.

        Raises `DataError` on other types.
        """
        value = self.value(record, "tests")
        if not isinstance(value, str | list):
            raise DataError(
                f"record {self.record_id(record)}: its tests are {type(value).__name__}, not a list of texts",
                where=self.where("data"),
                remedy="tests are a list of assert statements, or one text",
            )
        return _texts(_spelled_list(value) if isinstance(value, str) else value)

    def code_example(
        self, example_id: str, record: Record, *, chat: str, completion: str, stop: tuple[str, ...]
    ) -> Example:
        """Return the example of one programming task, asked by the texts `chat` and `completion`.

        The reference that is measured after a chat prompt is fenced, as that prompt asks for it. Where answers complete
        a prefix, `reference` is the whole program, and what is measured after a completion prompt is its rest.
        """
        solution = as_text(self.value(record, "reference")).strip("\n")
        prefix, entry_point = self.prefix(record), self.entry_point(record)
        reference = complete(prefix, solution, entry_point) if prefix else solution
        setup, imports = as_text(self.optional(record, "setup")), _texts(self.optional(record, "test_imports"))
        tests = self.tests(record)
        self._num_made += 1
        try:
            tests = runnable_tests(tests, setup="\n".join([*imports, setup]), entry_point=entry_point)
            _require_definition(reference, entry_point)
        except UnusableTestsError as error:
            self._unusable.append((example_id, error))
        joined: dict[str, GradingValue] = {"prefix": prefix} if prefix else {}
        return self.make(
            example_id,
            {
                "chat": self.chat(chat, reference=f"```python\n{reference}\n```"),
                "completion": self.completion(completion, reference=solution, stop=stop),
            },
            reference=reference,
            grading={
                "tests": tests,
                "setup": setup,
                "test_imports": imports,
                "question": self.question(record),
                **({"entry_point": entry_point} if entry_point else {}),
                **joined,
            },
        )

    def check(self) -> None:
        """Raise `DataError` when tests of an example that was made cannot judge a program: any would pass."""
        if not self._unusable:
            return
        counts = Counter(str(error) for _, error in self._unusable)
        example_id, error = next(pair for pair in self._unusable if str(pair[1]) == counts.most_common(1)[0][0])
        raise DataError(
            f"{len(self._unusable)} of {self._num_made} examples cannot be judged by their tests; "
            f"record {example_id}: {error}",
            where=self.where("columns.tests"),
            remedy=f"{error.remedy}; or leave these records out (data.ids_file)",
        )


def _require_definition(reference: str, entry_point: str | None) -> None:
    """Raise `UnusableTestsError` when the reference is a part of a program: answers would be taken as parts too."""
    if entry_point is None:
        return
    tree, name = parse(reference), entry_name(entry_point)
    if len(reference) <= MAX_PARSED_CHARS and (tree is None or name not in definitions(tree)):
        raise UnusableTestsError(
            f"its reference does not define {name}",
            "if references continue the beginning of a program, map the role prefix to it: columns: {prefix: prompt}",
        )


def _spelled_list(text: str) -> str | list[str]:
    """Return the list of texts that `text` spells (as a CSV file or a JSON column has it), else `text`."""
    if not text.lstrip().startswith("[") or len(text) > MAX_TEST_CHARS:
        return text
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list) and value and all(isinstance(item, str) for item in value) else text


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [text for text in (as_text(item).strip("\n") for item in items) if text.strip()]
