"""Columns of nested records, and of records in which something is missing."""

from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import LoadedDomain, load_domain
from moe_ray.domains.record_task import MISSING, is_empty, value_at
from moe_ray.errors import DataError

from .records import by_id, load, write_jsonl

NESTED = {
    "answers": [{"text": "first"}, {"text": "second"}],
    "squad": {"text": ["third"], "start": [4]},
    "none": None,
    "a.b": {"c.d": "literal"},
    "a": {"b": "nested", "b.c": 7},
}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("answers.0.text", "first"),
        ("answers.1.text", "second"),
        ("squad.text.0", "third"),
        ("a.b", {"c.d": "literal"}),
        ("a.b.c.d", "literal"),
        ("a.b.c", 7),
        ("answers.2.text", None),
        ("none.label", None),
        ("answers.-1.text", MISSING),
        ("answers.\N{SUPERSCRIPT TWO}.text", MISSING),
        ("answers.text", MISSING),
        ("squad.text.0.x", MISSING),
        ("", MISSING),
        (".", MISSING),
        ("nothing", MISSING),
    ],
)
def test_a_path_leads_into_objects_and_lists_and_a_literal_name_wins(column: str, value: object) -> None:
    assert value_at(NESTED, column) == value


@pytest.mark.parametrize(
    ("value", "empty"), [(float("nan"), True), (" \n", True), (0, False), (False, False), ({}, False)]
)
def test_a_missing_cell_of_a_table_is_empty_and_a_zero_is_not(value: object, empty: bool) -> None:
    assert is_empty(value) == empty


def test_roles_may_lie_in_nested_columns(tmp_path: Path) -> None:
    records = [
        {"meta": {"id": f"r{at}"}, "q": {"text": f"Q{at}?"}, "answer": {"label": label}}
        for at, label in enumerate(["yes", "no"])
    ]
    columns = {"id": "meta.id", "question": "q.text", "label": "answer.label"}
    found = by_id(load(tmp_path, records, "decision", choices=["yes", "no"], columns=columns))
    assert {key: one.grading["label"] for key, one in found.items()} == {"r0": "yes", "r1": "no"}
    with pytest.raises(DataError, match=r"no column q\.body\.text \(the question\)") as caught:
        load(tmp_path, records, "decision", choices=["yes", "no"], columns={**columns, "question": "q.body.text"})
    assert "answers.0.text" in str(caught.value.remedy)


def decision(folder: Path, labels: list[Any], choices: list[str], **more: Any) -> LoadedDomain:
    records = [{"id": f"r{at}", "question": f"Q{at}?", "label": label} for at, label in enumerate(labels)]
    return load(folder, records, "decision", choices=choices, **more)


def labels_of(domain: LoadedDomain) -> list[object]:
    found = by_id(domain)
    return [found[key].grading["label"] for key in sorted(found)]


@pytest.mark.parametrize(
    ("labels", "choices", "read"),
    [
        (["Guilty", " not   guilty ", "NOT GUILTY"], ["guilty", "not guilty"], ["guilty", "not guilty", "not guilty"]),
        ([1, 0, "1", 1.0], ["no", "yes"], ["yes", "no", "yes", "yes"]),
        ([1, "0"], ["1", "0"], ["1", "0"]),
        ([True, False], ["no", "yes"], ["yes", "no"]),
        ([True, False], ["false", "true"], ["true", "false"]),
    ],
)
def test_a_label_is_read_by_name_then_by_number(
    labels: list[Any], choices: list[str], read: list[str], tmp_path: Path
) -> None:
    assert labels_of(decision(tmp_path, labels, choices)) == read


def test_how_numbers_were_read_is_reported(tmp_path: Path) -> None:
    assert decision(tmp_path, [1, 0], ["no", "yes"]).notes == ("labels are numbers: 0 is no, 1 is yes",)
    assert decision(tmp_path, ["no", "yes"], ["no", "yes"]).notes == ()


@pytest.mark.parametrize(
    ("label", "remedy"),
    [(2, "counts them from 0"), (-1, "counts them from 0"), (True, "read as yes and no"), ("maybe", "add the label")],
)
def test_a_label_that_is_no_choice_is_refused_with_what_to_do(label: Any, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not one of the choices") as caught:
        decision(tmp_path, [label], ["left", "right"])
    assert "record r0" in caught.value.what
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize("empty", [None, "", "  ", float("nan"), []])
def test_a_record_without_a_label_is_left_out_counted_and_reported(empty: Any, tmp_path: Path) -> None:
    domain = decision(tmp_path, ["yes", empty, "no"], ["yes", "no"])
    assert sorted(by_id(domain)) == ["r0", "r2"]
    assert domain.data_fingerprint["num_skipped"] == {"the label is empty": 1}
    assert domain.notes == ("1 record left out: the label is empty",)


def test_an_unanswerable_question_in_nested_lists_is_left_out(tmp_path: Path) -> None:
    records = [
        {"id": str(at), "question": "Q?", "answers": {"text": text}} for at, text in enumerate([["a"], [], ["b"]])
    ]
    domain = load(tmp_path, records, "free_text", columns={"reference": "answers.text.0"})
    assert sorted(by_id(domain)) == ["0", "2"]
    assert domain.data_fingerprint["num_skipped"] == {"the reference is empty": 1}


@pytest.mark.parametrize(
    ("task", "record", "more"),
    [
        ("decision", {"question": "Q?", "label": "a"}, {"choices": ["a", "b"]}),
        ("free_text", {"question": "Q?", "reference": "R"}, {}),
        ("code", {"question": "Add.", "reference": "def add(): return 1", "tests": ["assert add() == 1"]}, {}),
        ("math", {"question": "Q?", "answer": "#### 4"}, {}),
        ("coding", {"instruction": "Q?", "output": "R"}, {}),
    ],
)
def test_the_same_record_twice_without_an_id_counts_once_in_every_task(
    task: str, record: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    domain = load(tmp_path, [record, record, record], task, **more)
    assert len(domain.examples) == 1
    assert domain.data_fingerprint["num_skipped"] == {"the same as another record": 2}
    assert domain.notes == ("2 records left out: the same as another record",)
    with pytest.raises(DataError, match="two records have the id '7'"):
        load(tmp_path, [{**record, "id": "7"}] * 2, task, **more)


def test_listed_ids_that_the_data_lacks_are_reported(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("r0\nr1\ngone\nlost\n")
    write_jsonl(tmp_path / "d.jsonl", [{"id": f"r{at}", "question": "Q?", "reference": "R"} for at in range(3)])
    section = {"task": "free_text", "data": {"source": "./d.jsonl", "ids_file": "./ids.txt"}}
    domain = load_domain("field", DomainConfig.model_validate(section), tmp_path)
    (note,) = domain.notes
    assert note.startswith("2 of the 4 ids in ids.txt give no example")
    assert domain.data_fingerprint["notes"] == [note]
    (tmp_path / "ids.txt").write_text("gone\nlost\n")
    with pytest.raises(DataError, match="none of the 2 ids"):
        load_domain("field", DomainConfig.model_validate(section), tmp_path)
