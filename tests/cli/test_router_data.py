"""`moe-ray router data` as a person gives it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_ray.cli.main import app
from moe_ray.cli.terminal import EXIT_USAGE, reported
from moe_ray.config.load import load_experiment
from moe_ray.domains.loading import load_domain
from moe_ray.runs.wanted_router import read_texts
from tests.support.router_texts import read_texts_files

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def router_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["moe-ray", "router", "data", *map(str, arguments)])
        code = reported(app)
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment of two domains with a router, a set of other queries and an out-of-domain one."""

    def questions(word: str, num: int) -> list[dict[str, Any]]:
        return [{"id": f"{word}{n}", "question": f"{word} {n} or {n * 3}?", "reference": "so"} for n in range(num)]

    def write(name: str, records: list[dict[str, Any]]) -> dict[str, str]:
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return {"source": f"./{name}.jsonl"}

    experiment = {
        "name": "routed",
        "models": {"base": {"path": "./base", "engine": "scripted", "engine_settings": {"text": "so"}}},
        "baseline": "base",
        "domains": {
            word: {"task": "free_text", "data": write(word, questions(word, num)), "max_examples": 10}
            for word, num in (("law", 40), ("tools", 60))
        },
        "router": {
            "kind": "tfidf",
            "other": [
                write("chat", [{"text": f"hello {n} you {n * 5}"} for n in range(20)]),
                {**write("errands", [{"text": f"buy {n} of {n * 9}"} for n in range(7)]), "use": "test"},
            ],
        },
    }
    path = tmp_path / "routed.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def test_the_texts_that_training_would_take_are_written_and_told(
    router_data: Command, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "router"
    code, shown = router_data(file, "--out", out)
    assert code == 0, shown
    experiment = load_experiment(file)
    examples = {
        name: load_domain(name, domain, experiment.base_dir).examples
        for name, domain in experiment.config.domains.items()
    }
    texts = read_texts_files(out)
    assert texts == read_texts(experiment, examples).texts
    assert {path.name for path in out.iterdir()} == {
        "classifier_train.json", "classifier_test.json", "data_report.json", "out_of_domain", "expert_eval"
    }  # fmt: skip
    for name, asked in examples.items():
        records = json.loads((out / "expert_eval" / f"{name}.json").read_text())
        assert [record["id"] for record in records] == [example.id for example in asked]
        assert [record["question"] for record in records] == [example.grading["question"] for example in asked]
    for split in (texts.train, texts.validation, texts.test):
        assert str(sum(text.label == "law" for text in split)) in shown
    assert "10 of the run" in shown
    assert "errands (out-of-domain)" in shown


def test_the_same_command_writes_the_same_files_over_its_own(router_data: Command, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    first = [router_data(file, "--out", out), {path: path.read_bytes() for path in out.rglob("*.json")}]
    assert first == [router_data(file, "--out", out), {path: path.read_bytes() for path in out.rglob("*.json")}]
    code, shown = router_data(file, "--out", out, "--set", "router.max_texts_per_domain=12", "--set", "router.other=[]")
    assert code == 0, shown
    assert "over the limit" in shown
    assert list((out / "out_of_domain").iterdir()) == []


def test_a_folder_with_anything_else_in_it_is_left_alone(router_data: Command, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    (out / "classifier_train.json").write_text("[]")
    code, shown = router_data(file, "--out", out)
    assert code == EXIT_USAGE
    assert "thesis.tex" in shown
    assert "--out" in shown
    assert (out / "thesis.tex").read_text() == "years of work"
    assert (out / "classifier_train.json").read_text() == "[]"


def test_a_failure_leaves_no_part_of_a_folder(router_data: Command, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "router"
    code, shown = router_data(file, "--out", out, "--set", "domains.law.max_examples=35")
    assert code == EXIT_USAGE
    assert "5 texts of law" in shown
    assert "routed.yaml" in shown
    assert not out.exists()
    (tmp_path / "a_file").write_text("")
    code, shown = router_data(file, "--out", tmp_path / "a_file" / "router")
    assert code == EXIT_USAGE
    assert "choose another folder" in shown


def test_a_task_that_does_not_tell_its_records_leaves_no_folder_behind(
    router_data: Command, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "opaque_of_the_router.py").write_text(
        "from moe_ray.domains.tables import FreeTextTask\n"
        "class Opaque:\n"
        "    default_graders = ('rouge_l',)\n"
        "    def __init__(self, name, config): self.task = FreeTextTask(name, config)\n"
        "    def examples(self, records): return self.task.examples(records)\n"
    )
    code, shown = router_data(
        file, "--out", tmp_path / "router", "--set", "domains.tools.task=opaque_of_the_router:Opaque"
    )
    assert code == EXIT_USAGE
    assert "which records" in shown
    assert not [path.name for path in tmp_path.iterdir() if "router" in path.name and path.suffix != ".py"]


def test_an_experiment_without_a_router_is_told_so(router_data: Command, file: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(file.read_text())
    del config["router"]
    file.write_text(yaml.safe_dump(config))
    code, shown = router_data(file, "--out", tmp_path / "router")
    assert code == EXIT_USAGE
    assert "no router" in shown
