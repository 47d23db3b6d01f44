from pathlib import Path

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import load_domain
from moe_ray.fingerprint import file_sha256

from .records import load, mbpp_task


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
