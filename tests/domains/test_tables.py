import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import load_domain
from moe_ray.errors import DataError

from .records import by_id, load, shared, text_of

TICKETS: list[dict[str, Any]] = [
    {"ticket": "t1", "body": "Where is my parcel?", "team": "Delivery", "tone": ["calm", "short"]},
    {"ticket": "t2", "body": "Charged twice {sic}.", "team": "billing", "tone": None},
]
COLUMNS = {"id": "ticket", "question": "body", "label": "team"}


def test_a_decision_needs_only_columns_and_choices(tmp_path: Path) -> None:
    domain = load(tmp_path, TICKETS, "decision", columns=COLUMNS, choices=["billing", "delivery"])
    first, second = by_id(domain)["t1"], by_id(domain)["t2"]
    assert (first.grading["label"], second.grading["label"]) == ("delivery", "billing")
    assert first.prompts["chat"].choices == ("billing", "delivery")
    assert first.prompts["completion"].choices == (" billing", " delivery")
    assert first.reference == "delivery"
    assert domain.graders == ("decision", "decision_loglik", "bits_per_byte")
    for style in ("chat", "completion"):
        assert "Where is my parcel?" in text_of(first, style)
        assert "billing, delivery" in text_of(first, style)
        assert "Delivery" not in text_of(first, style)


def test_templates_name_columns_and_roles_and_leave_braces_of_values_alone(tmp_path: Path) -> None:
    prompt = {"template": "{body} [{tone}] {choices}", "completion_template": "{question}{{}}"}
    domain = load(tmp_path, TICKETS, "decision", columns=COLUMNS, choices=["billing", "delivery"], prompt=prompt)
    assert text_of(by_id(domain)["t1"], "chat") == "Where is my parcel? [calm\n\nshort] billing, delivery"
    assert text_of(by_id(domain)["t2"], "chat") == "Charged twice {sic}. [] billing, delivery"
    assert text_of(by_id(domain)["t2"], "completion") == "Charged twice {sic}.{}"


def test_in_a_template_of_ones_own_a_column_goes_before_a_role_of_its_name(tmp_path: Path) -> None:
    records = [{"id": "1", "question": "long form", "title": "short form", "reference": "r"}]
    prompt = {"template": "{question}"}
    (example,) = load(tmp_path, records, "free_text", columns={"question": "title"}, prompt=prompt).examples
    assert text_of(example, "chat") == "long form"
    assert "short form" in text_of(example, "completion")


def test_free_text_puts_a_context_before_the_question(tmp_path: Path) -> None:
    records = [{"id": "1", "question": "Q?", "context": ["first.", "second."], "reference": "R\r\nS "}]
    (example,) = load(tmp_path, records, "free_text").examples
    assert text_of(example, "chat") == "first.\n\nsecond.\n\nQ?"
    assert example.reference == "R\nS"
    assert example.grading == {"question": "Q?"}


def test_without_an_id_column_the_id_follows_from_the_content_and_not_from_the_position(tmp_path: Path) -> None:
    records = [{"question": f"Q{number}?", "reference": "R"} for number in range(5)]
    forward = load(tmp_path, records, "free_text").examples
    assert load(tmp_path, records[::-1], "free_text").examples == forward
    assert len({example.id for example in forward}) == 5


def test_code_takes_tests_as_a_list_or_as_one_text(tmp_path: Path) -> None:
    base = {"question": "Add.", "reference": "def f(): ..."}
    records: list[dict[str, Any]] = [
        {"id": "1", **base, "tests": ["assert f()", "assert not f()"]},
        {"id": "2", **base, "tests": "assert f()\nassert not f()\n", "setup": "x = 1", "test_imports": "import math"},
    ]
    examples = by_id(load(tmp_path, records, "code"))
    assert examples["1"].grading["tests"] == ["assert f()", "assert not f()"]
    assert examples["2"].grading["tests"] == ["assert f()\nassert not f()"]
    assert (examples["2"].grading["setup"], examples["2"].grading["test_imports"]) == ("x = 1", ["import math"])
    assert text_of(examples["1"], "chat") == text_of(examples["2"], "chat")


def test_half_a_character_does_not_break_the_run(tmp_path: Path) -> None:
    records = [{"id": "\ud83d", "question": "Smile \ud83d?", "reference": "\U0001f600"}]
    (example,) = load(tmp_path, records, "free_text").examples
    assert (example.id, text_of(example, "chat"), example.reference) == ("?", "Smile ??", "\U0001f600")


def test_real_free_text_loads_from_yaml_alone() -> None:
    section = {
        "task": "free_text",
        "data": {"source": shared("legal/indian_statute_qa.jsonl")},
        "columns": {"reference": "answer"},
        "max_examples": 300,
    }
    domain = load_domain("legal", DomainConfig.model_validate(section), Path())
    assert domain.data_fingerprint["num_records"] == 6349
    assert len(domain.examples) == 300
    assert all(example.reference and example.grading["question"] for example in domain.examples)


HUMANEVAL = {
    "task_id": "T/0",
    "prompt": "def f(x):\n",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    "entry_point": "f",
}
HUMANEVAL_COLUMNS = {"id": "task_id", "question": "prompt", "reference": "canonical_solution", "tests": "test"}


def test_tests_that_nothing_calls_are_refused_with_the_column_their_number_and_a_remedy(tmp_path: Path) -> None:
    records = [{**HUMANEVAL, "task_id": f"T/{number}", "entry_point": ""} for number in range(3)]
    records.append({**HUMANEVAL, "task_id": "T/3", "test": "assert f(1) == 2", "entry_point": ""})
    with pytest.raises(DataError) as caught:
        load(tmp_path, records, "code", columns=HUMANEVAL_COLUMNS)
    assert caught.value.where == "domains.field.columns.tests"
    assert "3 of 4 examples cannot be judged by their tests" in caught.value.what
    assert "record T/" in caught.value.what
    assert "nothing calls check(candidate)" in caught.value.what
    assert "entry_point" in (caught.value.remedy or "")


def test_a_reference_that_is_half_a_program_asks_for_the_prefix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its reference does not define f") as caught:
        load(tmp_path, [HUMANEVAL], "code", columns=HUMANEVAL_COLUMNS)
    assert "columns: {prefix: prompt}" in (caught.value.remedy or "")


def test_a_column_called_prefix_that_is_not_named_changes_nothing(tmp_path: Path) -> None:
    record = {"id": "1", "question": "Add one.", "reference": "def f(x): return x + 1", "tests": ["assert f(1) == 2"]}
    (plain,) = load(tmp_path, [record], "code").examples
    (other,) = load(tmp_path, [{**record, "prefix": "x"}], "code").examples
    assert plain == other


@pytest.mark.parametrize("spell", [json.dumps, repr])
def test_a_list_of_tests_may_be_spelled_as_text(spell: Callable[[Any], str], tmp_path: Path) -> None:
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    record = {"id": "1", "question": "Add one.", "reference": "def f(x): return x + 1"}
    (listed,) = load(tmp_path, [{**record, "tests": tests}], "code").examples
    (spelled,) = load(tmp_path, [{**record, "tests": spell(tests)}], "code").examples
    assert listed == spelled
    assert listed.grading["tests"] == tests
