"""Scoring and reporting from files alone: how the answers lie in files leaves no trace in what is concluded."""

import shutil
from pathlib import Path

import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.work import prepare
from moe_ray.scoring import grade
from moe_ray.scoring.score import read_scores, scores_of_table
from moe_ray.store import answers as answer_files
from moe_ray.store.answers import CONTENT_COLUMNS
from moe_ray.store.lock import exclusive
from moe_ray.store.run_directory import RunDirectory
from tests.support import synthetic_store
from tests.support.graded import made_from

NUM_ANSWERS = 480


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of six models, two domains and 480 answers in as many small files as it has shards, scored and reported."""
    folder: Path = tmp_path_factory.mktemp("stored")
    synthetic_store.write_experiment(folder, NUM_ANSWERS)
    run = synthetic_store.fill_store(synthetic_store.load(folder), 1)
    pipeline.score(run)
    pipeline.report(run)
    return run


@pytest.fixture
def copied(stored: RunDirectory, tmp_path: Path) -> RunDirectory:
    shutil.copytree(stored.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def merge(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_files, "MIN_FILES_TO_MERGE", 2)
    monkeypatch.setattr(answer_files, "MERGED_BYTES", 100_000)
    before = sum(1 for _ in (run.path / "answers").iterdir())
    run.merge_answers()
    assert 1 < sum(1 for _ in (run.path / "answers").iterdir()) < before


def test_scores_summary_and_report_of_merged_files_are_the_same_to_the_last_byte(
    stored: RunDirectory, copied: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(copied, monkeypatch)
    pipeline.score(copied)
    pipeline.report(copied)
    for name in ("scores_path", "summary_path", "report_path"):
        assert getattr(copied, name).read_bytes() == getattr(stored, name).read_bytes(), name


def test_nothing_is_left_to_do_and_nothing_to_grade_when_the_files_were_merged(
    copied: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(copied, monkeypatch)
    assert len(copied.done_keys()) == copied.manifest().sessions[-1].cells_done_after
    assert copied.graded == made_from(copied)


def test_grading_few_at_a_time_gives_the_same_scores(
    stored: RunDirectory, copied: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grade, "MAX_ITEMS", 7)
    pipeline.score(copied)
    mine, whole = (scores_of_table(read_scores(run.scores_path)[0]) for run in (copied, stored))
    assert sorted(map(str, mine)) == sorted(map(str, whole))
    pipeline.report(copied)
    assert copied.summary_path.read_bytes() == stored.summary_path.read_bytes()


def test_answers_to_cells_that_the_experiment_no_longer_has_are_not_graded(copied: RunDirectory) -> None:
    """As after max_examples was lowered."""
    kept = copied.examples("texts")[:3]
    copied.write_examples("texts", kept)
    pipeline.score(copied)
    scores = scores_of_table(read_scores(copied.scores_path)[0])
    assert {score.example_id for score in scores if score.domain == "texts"} == {example.id for example in kept}
    assert "no answer" not in {score.reason for score in scores}


def test_scoring_needs_the_run_directory_for_itself(copied: RunDirectory) -> None:
    with exclusive(copied), pytest.raises(RunDirectoryError, match="another moe-ray process"):
        pipeline.score(copied)


def test_scoring_where_there_is_no_run_says_so_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"manifest\.json is missing"):
        pipeline.score(RunDirectory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_comparing_writes_nothing(stored: RunDirectory, copied: RunDirectory) -> None:
    for path in (copied.summary_path, copied.report_path):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in stored.path.rglob("*")}
    comparison = pipeline.compare(stored, copied)
    assert {pair.change.difference for pair in comparison.pairs if pair.change is not None} == {0.0}
    assert {path: path.stat().st_mtime_ns for path in stored.path.rglob("*")} == before
    assert not copied.summary_path.exists()


def test_the_content_columns_are_those_of_the_cells(stored: RunDirectory) -> None:
    table = stored.answers_table(list(CONTENT_COLUMNS))
    work = prepare(synthetic_store.load(stored.path.parents[1])).work
    assert set(table["key"].to_pylist()) == {cell.key for cell in work.cells} == work.done
    assert work.shards == ()
