import sys
from pathlib import Path

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import load_domain
from moe_ray.fingerprint import file_sha256

from .records import load, mbpp_task

POEMS = """
from moe_ray.domains.example import Example, Message, Prompt

class Poems:
    default_graders = ("rouge_l",)

    def __init__(self, name, config):
        self.name, self.settings = name, config.settings

    def examples(self, records):
        for record in records:
            prompt = Prompt(messages=(Message(role="user", content=record["first"]),), reference=record["second"])
            prompts = {"chat": prompt, "completion": prompt}
            yield Example(id=record["id"], domain=self.name, prompts=prompts, reference=record["second"])
"""

LINES = [{"id": f"p{number}", "first": f"rose {number}", "second": "red"} for number in range(20)]


def test_the_fingerprint_says_what_was_read_and_what_was_used(tmp_path: Path) -> None:
    domain = load(tmp_path, [mbpp_task(number) for number in range(1, 11)], "mbpp", max_examples=5)
    path = tmp_path / "records.jsonl"
    assert domain.data_fingerprint == {
        "source": "./records.jsonl",
        "resolved": str(path),
        "sha256": file_sha256(path),
        "num_records": 10,
        "num_available": 7,
        "num_examples": 5,
        "num_skipped": {"a solved task of the prompt": 3},
        "ids_file": None,
        "notes": ["completion prompt: 3-shot (tasks 2, 3, 4 of the data)"],
    }


def test_a_relative_source_is_below_the_folder_of_the_experiment_file(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    load(folder, [mbpp_task(11)], "mbpp")
    section = {"task": "mbpp", "data": {"source": "data/records.jsonl"}}
    assert load_domain("code", DomainConfig.model_validate(section), tmp_path).examples[0].id == "11"


def test_graders_are_the_tasks_own_unless_the_experiment_names_some(tmp_path: Path) -> None:
    records = [mbpp_task(11)]
    assert load(tmp_path, records, "mbpp").graders == ("code", "bits_per_byte")
    assert load(tmp_path, records, "mbpp", graders=["code"]).graders == ("code",)
    assert load(tmp_path, records, "mbpp", graders=[]).graders == ()


def test_a_class_beside_the_experiment_file_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "poems_of_the_test", raising=False)
    (tmp_path / "poems_of_the_test.py").write_text(POEMS)
    path_before = list(sys.path)
    domain = load(tmp_path, LINES, "poems_of_the_test:Poems", max_examples=6)
    assert len(domain.examples) == 6
    assert domain.data_fingerprint["num_available"] == 20
    assert domain.graders == ("rouge_l",)
    more = load(tmp_path, LINES[::-1], "poems_of_the_test:Poems", max_examples=9)
    assert more.examples[:6] == domain.examples
    assert sys.path == path_before
