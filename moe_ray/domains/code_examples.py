"""How a programming task with tests becomes an example, whatever its columns are called."""

from typing import Any

from moe_ray.domains.base import Record
from moe_ray.domains.example import Example
from moe_ray.domains.record_task import RecordTask
from moe_ray.domains.templates import as_text
from moe_ray.errors import DataError

CHAT = """\
Write a Python program for this task:

{question}

It must pass these tests:

```python
{tests}
```

Answer with one fenced code block (```python) that holds the whole program, without the tests."""


def code_values(task: RecordTask, record: Record) -> dict[str, str]:
    """Return what the templates of a code domain may name: the question, and the tests, one after the other."""
    return {"question": task.text(record, "question"), "tests": "\n".join(required_texts(task, record, "tests"))}


def code_example(
    task: RecordTask, example_id: str, record: Record, *, chat: str, completion: str, stop: tuple[str, ...]
) -> Example:
    """Return the example of one programming task, asked by the texts `chat` and `completion`.

    The reference that is measured after a chat prompt is fenced, as that prompt asks for it.
    """
    reference = as_text(task.value(record, "reference")).strip("\n")
    return task.make(
        example_id,
        {
            "chat": task.chat(chat, reference=f"```python\n{reference}\n```"),
            "completion": task.completion(completion, reference=reference, stop=stop),
        },
        reference=reference,
        grading={
            "tests": required_texts(task, record, "tests"),
            "setup": as_text(task.optional(record, "setup")),
            "test_imports": _texts(task.optional(record, "test_imports")),
            "question": task.text(record, "question"),
        },
    )


def required_texts(task: RecordTask, record: Record, role: str) -> list[str]:
    """Return the texts of a role: a list's items, or one text as the only item. Raises `DataError` on other types."""
    value = task.value(record, role)
    if not isinstance(value, str | list):
        raise DataError(
            f"record {task.record_id(record)}: its {role} are {type(value).__name__}, not a list of texts",
            where=task.where("data"),
            remedy="tests are a list of assert statements, or one text",
        )
    return _texts(value)


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [text for text in (as_text(item).strip("\n") for item in items) if text.strip()]
