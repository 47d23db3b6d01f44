"""Files that are no plain files, or larger than any reader expects: each command ends in words, and soon."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_ray.config.load import MAX_EXPERIMENT_BYTES
from moe_ray.store.run_directory import RunDirectory
from tests.fuzz.finished import finished_run
from tests.fuzz.inputs import EXPERIMENT, LINES
from tests.support.commands import run


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_EXPERIMENT_BYTES + 1)


def folder(path: Path) -> None:
    path.mkdir()


MAKERS = (fifo, device, loop, huge, folder)


@pytest.mark.parametrize("make", MAKERS)
def test_an_experiment_file_that_is_no_plain_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "experiment.yaml")
    code, shown = run("plan", str(tmp_path / "experiment.yaml"))
    assert (code, shown.startswith("error: "), "remedy: " in shown) == (2, True, True), shown


@pytest.mark.parametrize("make", [fifo, device, loop, folder])
@pytest.mark.parametrize("key", ["source", "ids_file"])
def test_data_that_is_no_plain_file_is_refused(key: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    described: dict[str, Any] = yaml.safe_load(yaml.safe_dump(EXPERIMENT))
    described["domains"]["parity"]["data"][key] = "./odd.json"
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    make(tmp_path / "odd.json")
    code, shown = run("plan", str(tmp_path / "experiment.yaml"))
    assert (code, "remedy: " in shown) == (2, True), shown


@pytest.mark.parametrize("make", [fifo, device, loop, folder])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_checkpoint_of_odd_files_is_refused(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    described: dict[str, Any] = yaml.safe_load(yaml.safe_dump(EXPERIMENT))
    described["models"]["base"] = {"path": "./model"}
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    make(tmp_path / "model" / name)
    code, shown = run("plan", str(tmp_path / "experiment.yaml"))
    assert (code, "remedy: " in shown) == (2, True), shown


@pytest.fixture
def finished(tmp_path: Path) -> RunDirectory:
    return finished_run(tmp_path, EXPERIMENT, LINES)


@pytest.mark.parametrize("make", [fifo, device, loop, folder])
@pytest.mark.parametrize("name", ["manifest.json", "scores/scores.parquet", "examples/parity.jsonl", "routes.parquet"])
def test_a_run_of_odd_files_is_refused(name: str, make: Callable[[Path], None], finished: RunDirectory) -> None:
    (finished.path / name).unlink()
    make(finished.path / name)
    code, shown = run("report", str(finished.path))
    assert (code, "remedy: " in shown) == (2, True), shown


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_report_that_cannot_be_written_leaves_the_old_one(
    number: int, finished: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("report", str(finished.path))[0] == 0
    before = finished.report_path.read_bytes(), finished.summary_path.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("moe_ray.report.write.write_text_atomically", refuse)
    code, shown = run("report", str(finished.path))
    assert (code, os.strerror(number) in shown, "remedy: " in shown) == (2, True, True), shown
    assert (finished.report_path.read_bytes(), finished.summary_path.read_bytes()) == before
