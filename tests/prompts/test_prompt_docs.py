"""docs/reference/prompts.md, which lists the default prompts of each task, says what the code does.

Write it again with `python -m tests.prompts.test_prompt_docs`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.record_task import RecordTask
from moe_ray.domains.registry import TASKS, task_class
from moe_ray.prompts.messages import Prompt

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "prompts.md"
INTRODUCTION = """\
# Default prompts

What a model is asked when a domain has no `prompt` of its own. Names in braces are filled in from the example. A
model with `prompt_style: chat` gets the chat prompt as one user message (after `prompt.system`, if there is one), a
model with `prompt_style: completion` the completion prompt as one text to continue. An answer ends at the stop
strings, which are cut off. `prompt.template`, `prompt.completion_template` and `prompt.stop` replace them;
[config.md](config.md) has the keys. `{context}` of `decision` and `free_text` is the context and a blank line, or
nothing.
"""
RECORDS: Mapping[str, dict[str, Any]] = {
    "pubmedqa": {"id": 1, "question": "Q", "context": ["C"], "final_decision": "yes", "long_answer": "R"},
    "law_stackexchange": {
        "question_id": 1,
        "question_title": "T",
        "question_body": "B",
        "answers": [{"answer_id": 1, "score": 1, "body": "R"}],
    },
    "mbpp": {"task_id": 11, "text": "Q", "code": "def f(): return 1", "test_list": ["assert f() == 1"]},
    "coding": {"instruction": "Q", "output": "R"},
    "math": {"question": "Q", "answer": "#### 4"},
    "reasoning": {"question": "Q", "answer": True, "facts": ["R"]},
    "decision": {"question": "Q", "label": "yes"},
    "free_text": {"question": "Q", "reference": "R"},
    "code": {"question": "Q", "reference": "def f(): return 1", "tests": ["assert f() == 1"]},
}


def page() -> str:
    return INTRODUCTION + "".join(section(task) for task in TASKS.names)


def section(task: str) -> str:
    kind = task_class(task, where="here")
    assert issubclass(kind, RecordTask)
    prompts = prompts_of(task, kind)
    parts = [f"\n## {task}\n"]
    for style, template in (("chat", kind.chat_default), ("completion", kind.completion_default)):
        stops = ", ".join(f"`{stop!r}`" for stop in prompts[style].stop)
        parts += [f"{style.capitalize()}{f' (stops at {stops})' if stops else ''}:\n", fenced(template)]
    return "\n".join(parts)


def prompts_of(task: str, kind: type[RecordTask]) -> dict[str, Prompt]:
    """The prompts of the task's record."""
    choices = {"choices": ["yes", "no"]} if task == "decision" else {}
    config = DomainConfig.model_validate({"task": task, "data": {"source": "./d.jsonl"}, **choices})
    made = kind("field", config).example("1", RECORDS[task])
    return {str(style): prompt for style, prompt in made.prompts.items()}


def fenced(text: str) -> str:
    return f"````text\n{text.rstrip()}\n````\n"


def test_the_page_of_default_prompts_is_what_the_code_asks() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.prompts.test_prompt_docs"


def test_a_default_template_is_what_a_model_is_asked() -> None:
    """With the values of the record filled in; so that the page cannot show a template that is not used."""
    for task in TASKS.names:
        kind = task_class(task, where="here")
        assert issubclass(kind, RecordTask)
        for style, template in (("chat", kind.chat_default), ("completion", kind.completion_default)):
            asked = "".join(message.content for message in prompts_of(task, kind)[style].messages)
            assert all(part in asked for part in plain_parts(template)), (task, style)


def plain_parts(template: str) -> Iterator[str]:
    """What stands between the names in braces."""
    for piece in template.split("{"):
        yield piece.partition("}")[2] if "}" in piece else piece


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
