import json
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import load_domain
from moe_ray.domains.prepare import FETCH_BY_HAND, MAX_PREPARED, prepare_domain
from moe_ray.errors import ConfigError, DataError

from .records import authors_pubmedqa, hub_pubmedqa, law_question, load, mbpp_task, write_jsonl

DOMAINS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "pubmedqa": ({"max_examples": 7}, [hub_pubmedqa(number) for number in range(20)]),
    "law_stackexchange": ({}, [law_question(number, answers=[][:number]) for number in range(2)]
                          + [law_question(number) for number in range(5, 25)]),
    "mbpp": ({"max_examples": 5}, [mbpp_task(number) for number in range(1, 31)]),
    "free_text": (
        {"columns": {"question": "q", "reference": "a"}},
        [{"q": f"Q{number} é?", "a": "A"} for number in range(9)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", DOMAINS)
def test_a_prepared_file_gives_the_same_examples(task: str, tmp_path: Path) -> None:
    section, records = DOMAINS[task]
    loaded = load(tmp_path, records, task, **section)
    config = DomainConfig.model_validate({"task": task, "data": {"source": "./records.jsonl"}, **section})
    prepared = prepare_domain("field", config, tmp_path, tmp_path / "out")
    assert prepared.num_examples == len(loaded.examples)
    assert prepared.num_available == loaded.data_fingerprint["num_available"]
    again = config.model_copy(update={"data": config.data.model_copy(update={"source": "./field.jsonl"})})
    assert load_domain("field", again, tmp_path / "out").examples == loaded.examples


def test_a_prepared_file_holds_original_records_and_the_shots_that_prompts_need(tmp_path: Path) -> None:
    records = [mbpp_task(number) for number in range(1, 31)]
    write_jsonl(tmp_path / "records.jsonl", records)
    config = DomainConfig.model_validate({"task": "mbpp", "data": {"source": "./records.jsonl"}, "max_examples": 5})
    prepared = prepare_domain("code", config, tmp_path, tmp_path)
    lines = [json.loads(line) for line in prepared.path.read_text().splitlines()]
    assert prepared.num_supporting == 3
    assert len(lines) == 8
    assert all(line in records for line in lines)


def test_at_most_a_thousand_examples_are_prepared(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "records.jsonl", [hub_pubmedqa(number) for number in range(MAX_PREPARED + 50)])
    config = DomainConfig.model_validate({"task": "pubmedqa", "data": {"source": "./records.jsonl"}})
    assert prepare_domain("biomedical", config, tmp_path, tmp_path).num_examples == MAX_PREPARED == 1000


def test_the_authors_format_is_prepared_with_its_ids(tmp_path: Path) -> None:
    (tmp_path / "ori_pqal.json").write_text(json.dumps({"7": authors_pubmedqa(), "8": authors_pubmedqa("no")}))
    config = DomainConfig.model_validate({"task": "pubmedqa", "data": {"source": "./ori_pqal.json"}})
    prepared = prepare_domain("biomedical", config, tmp_path, tmp_path)
    again = config.model_copy(update={"data": config.data.model_copy(update={"source": str(prepared.path)})})
    assert load_domain("b", again, tmp_path).examples == load_domain("b", config, tmp_path).examples


def test_one_list_holds_the_same_records_as_a_line_each(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "records.jsonl", [mbpp_task(number) for number in range(1, 31)])
    config = DomainConfig.model_validate({"task": "mbpp", "data": {"source": "./records.jsonl"}, "max_examples": 5})
    lines = prepare_domain("code", config, tmp_path, tmp_path)
    whole = prepare_domain("code", config, tmp_path, tmp_path, suffix=".json")
    assert whole.path.name == "code.json"
    assert json.loads(whole.path.read_text()) == [json.loads(line) for line in lines.path.read_text().splitlines()]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "records.jsonl", [hub_pubmedqa()])
    (tmp_path / "file").write_text("")
    config = DomainConfig.model_validate({"task": "pubmedqa", "data": {"source": "./records.jsonl"}})
    with pytest.raises(DataError, match="cannot be written"):
        prepare_domain("biomedical", config, tmp_path, tmp_path / "file")


def test_a_class_that_hides_its_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "opaque_of_the_test.py").write_text(
        "class Opaque:\n"
        "    default_graders = ()\n"
        "    def __init__(self, name, config): ...\n"
        "    def examples(self, records): return []\n"
    )
    config = DomainConfig.model_validate({"task": "opaque_of_the_test:Opaque", "data": {"source": "./x.jsonl"}})
    with pytest.raises(ConfigError, match="which records"):
        prepare_domain("d", config, tmp_path, tmp_path)


def test_what_must_be_fetched_by_hand_is_named() -> None:
    text = "\n".join(FETCH_BY_HAND)
    assert "BioASQ" in text
    assert "hf auth login" in text
    assert "ids_file" in text
