"""The tasks coding, math and reasoning: the prompts, the references, and what is refused."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.instruction_sets import final_number
from moe_ray.domains.loading import load_domain
from moe_ray.errors import DataError
from tests.domains.records import load, shared, text_of

SUM: dict[str, Any] = {
    "question": "Ann has 3 boxes of 24 pens. How many pens?",
    "answer": "Each box has 24.\nIn all 3*24 = <<3*24=72>>72 pens.\n#### 72",
}
HUB: dict[str, Any] = {
    "qid": "b8",
    "question": "Would a pear sink in water?",
    "answer": False,
    "decomposition": ["What is the density of a pear?", "Is #1 above that of water?"],
    "facts": ["A pear's density is 0.59.", "Water's is about 1."],
}
BIG_BENCH: dict[str, Any] = {
    "input": "Would a pear sink in water?",
    "target_scores": {"Yes": 0, "No": 1},
    "target": "No. A pear's density is 0.59. Water's is about 1.",
}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 12 and 7\n#### 72", "72"),
        ("#### $1,234.50", "1234.5"),
        ("#### -3 degrees", "-3"),
        ("#### 72 (of 90)", "72"),
        ("#### 5\nNext question: 3+4\n#### 7", "7"),
        ("He has 3, she has 8.", "8"),
        ("It costs 5-2=3 dollars.", "3"),
        ("The answer is .25.", "0.25"),
        ("a loss of \N{MINUS SIGN}40", "-40"),
        ("version v2", None),
        ("none at all", None),
        ("12 pens\n#### none", None),
    ],
)
def test_the_final_number_is_that_after_the_mark_and_else_the_last(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


def test_an_instructions_input_is_part_of_the_question_where_there_is_one(tmp_path: Path) -> None:
    records = [
        {"id": "a", "instruction": "Reverse a list.", "input": "[1, 2]", "output": "x[::-1]", "response": "x[::-1]"},
        {"id": "b", "instruction": "Print 1.", "input": "", "output": "print(1)"},
    ]
    first, second = sorted(load(tmp_path, records, "coding").examples, key=lambda example: example.id)
    assert text_of(first, "chat") == "Reverse a list.\n\n[1, 2]"
    assert text_of(second, "completion") == "Question: Print 1.\n\nAnswer:"
    assert (first.reference, second.prompts["completion"].reference) == ("x[::-1]", " print(1)")


def test_a_solution_loses_the_calculators_notes_and_keeps_its_number(tmp_path: Path) -> None:
    (example,) = load(tmp_path, [SUM], "math").examples
    assert example.reference == "Each box has 24.\nIn all 3*24 = 72 pens.\n#### 72"
    assert example.grading["number"] == "72"
    assert "72" not in text_of(example, "chat")


@pytest.mark.parametrize("answer", ["It is 72.", "It is 72.\n#### many"])
def test_a_solution_without_a_final_number_is_refused(answer: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no number after ####"):
        load(tmp_path, [{**SUM, "answer": answer}], "math")


def test_both_published_forms_of_a_reasoning_question_ask_and_expect_the_same(tmp_path: Path) -> None:
    (hub,) = load(tmp_path, [HUB], "reasoning").examples
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"name": "strategyqa", "keywords": ["yes"], "examples": [BIG_BENCH]}))
    section = DomainConfig.model_validate({"task": "reasoning", "data": {"source": "./task.json"}})
    (big_bench,) = load_domain("field", section, tmp_path).examples
    assert hub.id == "b8"
    assert hub.prompts == big_bench.prompts
    assert hub.grading == big_bench.grading
    assert hub.reference == "no. A pear's density is 0.59. Water's is about 1."
    assert (hub.grading["label"], hub.prompts["completion"].choices) == ("no", (" yes", " no"))


def test_a_word_that_only_begins_like_the_answer_stays_in_the_reasons(tmp_path: Path) -> None:
    (example,) = load(tmp_path, [{**BIG_BENCH, "target": "Nobody knows. No."}], "reasoning").examples
    assert example.reference == "no. Nobody knows. No."


@pytest.mark.parametrize("answer", ["maybe", 3, "yes and no"])
def test_an_answer_that_is_neither_yes_nor_no_is_refused(answer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not yes or no"):
        load(tmp_path, [{**HUB, "answer": answer}], "reasoning")


def test_a_record_without_an_id_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    domain = load(tmp_path, [SUM, SUM], "math")
    assert len(domain.examples) == 1
    assert domain.data_fingerprint["num_skipped"] == {"the same as another record": 1}


def test_two_records_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two records have the id"):
        load(tmp_path, [{**SUM, "id": "a"}, {**SUM, "id": "a"}], "math")


@pytest.mark.parametrize(
    ("task", "file", "at_least"),
    [
        ("coding", "code/new_codealpaca.json", 4500),
        ("math", "ood/gsm8k_train.jsonl", 7000),
        ("reasoning", "ood/strategyqa_task.json", 2000),
    ],
)
def test_the_real_set_loads_whole(task: str, file: str, at_least: int) -> None:
    section = DomainConfig.model_validate({"task": task, "data": {"source": shared(file)}})
    domain = load_domain(task, section, Path())
    assert len(domain.examples) >= at_least
    if task == "math":
        for example in domain.examples:
            assert final_number(example.reference) == Decimal(str(example.grading["number"]))
            assert "<<" not in example.reference
