from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import load_domain
from moe_ray.errors import ConfigError
from tests.domains.records import by_id, load, mbpp_task, shared, text_of, write_jsonl

HEAD = "You are an expert Python programmer, and here is your task: "


def published_prompt(*task_ids: int) -> str:
    """The published form, spelled out: solved tasks, then the last one to be continued."""
    blocks = [
        f"{HEAD}Write a function to add {number}. Your code should pass these tests:\n\n"
        f"assert add(0) == {number}\nassert add(1) == {number + 1}\n[BEGIN]\n"
        for number in task_ids
    ]
    solved = [
        f"{block}def add(x):\n    return x + {number}\n[DONE]\n\n"
        for block, number in zip(blocks[:-1], task_ids, strict=False)
    ]
    return "".join([*solved, blocks[-1]])


def test_the_completion_prompt_is_three_shot_when_the_data_holds_the_shots(tmp_path: Path) -> None:
    domain = load(tmp_path, [mbpp_task(number) for number in (4, 3, 2, 1, 600)], "mbpp")
    examples = by_id(domain)
    assert set(examples) == {"1", "600"}
    assert text_of(examples["600"], "completion") == published_prompt(2, 3, 4, 600)
    assert examples["600"].prompts["completion"].stop == ("[DONE]",)
    assert domain.data_fingerprint["num_skipped"] == {"a solved task of the prompt": 3}
    assert domain.notes == ("completion prompt: 3-shot (tasks 2, 3, 4 of the data)",)


def test_without_the_shots_the_prompt_is_zero_shot_and_the_notes_say_so(tmp_path: Path) -> None:
    domain = load(tmp_path, [mbpp_task(number) for number in (2, 3, 11)], "mbpp")
    examples = by_id(domain)
    assert set(examples) == {"2", "3", "11"}
    assert text_of(examples["11"], "completion") == published_prompt(11)
    assert "zero-shot" in domain.notes[0]
    assert domain.data_fingerprint["notes"] == list(domain.notes)


def test_a_shots_file_beside_the_experiment_gives_the_shots(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "shots.jsonl", [mbpp_task(number) for number in range(1, 11)])
    domain = load(tmp_path, [mbpp_task(11)], "mbpp", settings={"shots_file": "shots.jsonl"})
    assert text_of(domain.examples[0], "completion") == published_prompt(2, 3, 4, 11)
    assert "shots.jsonl" in domain.notes[0]


def test_a_hub_split_gives_the_shots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(source: str, subset: str | None, *, split: str, revision: str | None) -> Any:
        task_ids = range(1, 11) if split == "prompt" else range(11, 14)
        return datasets.Dataset.from_list([mbpp_task(number) for number in task_ids])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    section = {"task": "mbpp", "data": {"source": "org/mbpp"}, "settings": {"shots_split": "prompt"}}
    domain = load_domain("code", DomainConfig.model_validate(section), tmp_path)
    assert set(by_id(domain)) == {"11", "12", "13"}
    assert text_of(by_id(domain)["12"], "completion") == published_prompt(2, 3, 4, 12)


def test_a_hub_split_of_a_local_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shots_split"):
        load(tmp_path, [mbpp_task(11)], "mbpp", settings={"shots_split": "prompt"})


def test_the_chat_prompt_asks_for_a_fenced_block_and_shows_all_tests(tmp_path: Path) -> None:
    (example,) = load(tmp_path, [mbpp_task(11)], "mbpp").examples
    text = text_of(example, "chat")
    assert "fenced" in text
    assert "assert add(0) == 11\nassert add(1) == 12" in text
    assert "[BEGIN]" not in text
    assert example.prompts["chat"].reference == "```python\ndef add(x):\n    return x + 11\n```"
    assert example.prompts["completion"].reference == example.reference == "def add(x):\n    return x + 11"


def test_the_sanitized_format_gives_prompt_and_test_imports(tmp_path: Path) -> None:
    record = mbpp_task(11, test_imports=["import math"], prompt="Write a sum.", source_file="x")
    del record["text"], record["test_setup_code"]
    (example,) = load(tmp_path, [record], "mbpp").examples
    assert "Write a sum." in text_of(example, "chat")
    assert example.grading == {
        "tests": ["assert add(0) == 11", "assert add(1) == 12"],
        "setup": "",
        "test_imports": ["import math"],
        "question": "Write a sum.",
    }


def test_a_template_of_ones_own_gets_no_shots(tmp_path: Path) -> None:
    records = [mbpp_task(number) for number in (2, 3, 4, 11)]
    domain = load(tmp_path, records, "mbpp", prompt={"completion_template": "# {question}\n"})
    assert len(domain.examples) == 4
    assert text_of(by_id(domain)["11"], "completion") == "# Write a function to add 11.\n"


def test_the_real_tasks_load_whole() -> None:
    source = shared("code/mbpp_train_prompt474.jsonl")
    domain = load_domain("code", DomainConfig.model_validate({"task": "mbpp", "data": {"source": source}}), Path())
    assert domain.data_fingerprint["num_records"] == 474
    assert set(by_id(domain)) == {str(number) for number in (1, *range(5, 11), *range(511, 975))}
    for example in domain.examples:
        text = text_of(example, "completion")
        assert "\r" not in text + example.reference
        assert text.count("[DONE]") == 3
        assert text.count("[BEGIN]") == 4
        tests = example.grading["tests"]
        assert isinstance(tests, list)
        assert all(test.replace("\r", "") in text for test in tests)


def test_the_kind_code_reads_the_real_tasks_by_their_columns() -> None:
    source = shared("code/mbpp_train_prompt474.jsonl")
    columns = {"id": "task_id", "question": "text", "reference": "code", "tests": "test_list"}
    section = {"task": "code", "data": {"source": source}, "columns": columns}
    assert len(load_domain("code", DomainConfig.model_validate(section), Path()).examples) == 474
