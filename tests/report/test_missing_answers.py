"""A report is never written over by one that says there are no answers, only because they cannot be read."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.report.write import write_report
from moe_ray.scoring.score import write_scores
from moe_ray.store.run_directory import RunDirectory
from tests.support.synthetic_run import ALL_METRICS, synthetic_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made, scores = synthetic_run(tmp_path / "run", num_models=2, num_answers=8)
    write_scores(made.scores_path, scores, ALL_METRICS)
    write_report(made)
    return made


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


@pytest.mark.parametrize("lose", [shutil.rmtree, empty, replace_by_file])
def test_a_report_stays_when_the_answers_are_gone(run: RunDirectory, lose: Callable[[Path], None]) -> None:
    before = run.report_path.read_bytes(), run.summary_path.read_bytes()
    lose(run.path / "answers")
    with pytest.raises(RunDirectoryError, match="answers"):
        write_report(run)
    assert (run.report_path.read_bytes(), run.summary_path.read_bytes()) == before


def test_a_report_stays_when_the_answers_may_not_be_read(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.report_path.read_bytes()
    scan = os.scandir

    def forbid(path: os.PathLike[str]) -> object:
        if Path(path).name == "answers":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(RunDirectoryError, match="Permission denied"):
        write_report(run)
    assert run.report_path.read_bytes() == before


def test_a_run_that_never_answered_has_a_report_all_the_same(tmp_path: Path) -> None:
    run, scores = synthetic_run(tmp_path / "run", num_models=2, num_answers=8)
    empty(run.path / "answers")
    write_scores(run.scores_path, [], ALL_METRICS)
    assert write_report(run).run.num_cells_done == 0
    assert scores
