from pathlib import Path

from tests.domains.records import by_id, law_question, load, text_of


def test_the_best_scored_answer_is_the_reference_and_of_equals_the_lowest_id(tmp_path: Path) -> None:
    (example,) = load(tmp_path, [law_question()], "law_stackexchange").examples
    assert example.reference == "The first of the best."
    assert example.prompts["chat"].reference == "The first of the best."
    assert example.prompts["completion"].reference == " The first of the best."


def test_the_prompt_holds_title_and_body_as_text_and_no_answer(tmp_path: Path) -> None:
    (example,) = load(tmp_path, [law_question()], "law_stackexchange").examples
    for style in ("chat", "completion"):
        text = text_of(example, style)
        assert "Is an oral lease binding?\n\nMy landlord says no." in text
        assert "best" not in text
        assert "<" not in text
    assert example.grading["question"] == "Is an oral lease binding?\n\nMy landlord says no."


def test_the_api_names_of_the_columns_load_too(tmp_path: Path) -> None:
    record = law_question()
    for name in ("title", "body"):
        record[name] = record.pop(f"question_{name}")
    assert (
        load(tmp_path, [record], "law_stackexchange").examples
        == load(tmp_path, [law_question()], "law_stackexchange").examples
    )


def test_questions_without_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    domain = load(tmp_path, [law_question(1), law_question(2, answers=[])], "law_stackexchange")
    assert list(by_id(domain)) == ["1"]
    assert domain.data_fingerprint["num_records"] == 2
    assert domain.data_fingerprint["num_available"] == 1
    assert domain.data_fingerprint["num_skipped"] == {"no answer": 1}


def test_templates_name_title_and_body(tmp_path: Path) -> None:
    prompt = {"template": "{title}!", "completion_template": "{body}:"}
    (example,) = load(tmp_path, [law_question()], "law_stackexchange", prompt=prompt).examples
    assert text_of(example, "chat") == "Is an oral lease binding?!"
    assert text_of(example, "completion") == "My landlord says no.:"
