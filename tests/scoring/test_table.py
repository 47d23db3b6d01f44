from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

import moe_ray.scoring.score as table_module
from moe_ray.errors import RunDirectoryError
from moe_ray.scoring.score import Metric, Score, read_scores, scores_of_table, write_scores

METRICS = {
    "accuracy": Metric(name="accuracy", definition="share of right ones", binary=True),
    "bits": Metric(name="bits", definition="b", higher_is_better=False, unit="bits/byte"),
    "macro_f1": Metric(name="macro_f1", definition="f", aggregation="macro_f1"),
}

SCORES = [
    Score(model="m", domain="d", example_id="1", metric="accuracy", value=1.0, label="yes", gold="yes"),
    Score(model="m", domain="d", example_id="2", metric="accuracy", value=None, reason="no answer"),
    Score(model="m", domain="d", example_id="1", metric="bits", value=0.1 + 0.2, weight=17.0, detail="é"),
]


def test_scores_and_metrics_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "scores" / "scores.parquet"
    write_scores(path, SCORES, METRICS)
    table, metrics = read_scores(path)
    assert (scores_of_table(table), metrics) == (SCORES, METRICS)


def test_no_scores_at_all_are_a_table_too(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", [], METRICS)
    table, metrics = read_scores(tmp_path / "scores.parquet")
    assert (scores_of_table(table), metrics) == ([], METRICS)


def test_scores_that_come_in_parts_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "ROWS_AT_A_TIME", 2)
    write_scores(tmp_path / "scores.parquet", iter(SCORES), METRICS)
    assert pq.ParquetFile(tmp_path / "scores.parquet").num_row_groups == 2
    assert scores_of_table(read_scores(tmp_path / "scores.parquet")[0]) == SCORES


def test_a_grader_that_fails_midway_leaves_the_old_table(tmp_path: Path) -> None:
    def failing() -> Iterator[Score]:
        yield SCORES[0]
        raise RuntimeError("the grader broke")

    path = tmp_path / "scores.parquet"
    write_scores(path, SCORES, METRICS)
    with pytest.raises(RuntimeError, match="the grader broke"):
        write_scores(path, failing(), METRICS)
    assert scores_of_table(read_scores(path)[0]) == SCORES
    assert list(tmp_path.iterdir()) == [path]


def test_pandas_and_duckdb_open_the_table_and_see_unscored_as_null(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, SCORES, METRICS)
    assert pd.read_parquet(path)["value"].isna().sum() == 1
    with duckdb.connect() as connection:
        row = connection.execute(f"select count(*), count(value) from '{path}'").fetchone()
    assert row == (3, 2)


@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_a_missing_or_damaged_table_is_reported_with_its_remedy(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunDirectoryError) as caught:
        read_scores(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_parquet_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(RunDirectoryError):
        read_scores(tmp_path / "scores.parquet")


def test_a_table_of_an_earlier_version_says_of_no_score_that_it_failed(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, [replace(SCORES[1], failed=True)], METRICS)
    pq.write_table(pq.read_table(path).drop_columns(["failed"]), path)
    assert scores_of_table(read_scores(path)[0]) == [SCORES[1]]


def test_half_a_character_in_a_reason_is_kept_as_an_escape(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", [replace(SCORES[1], reason="said \ud800é"), SCORES[2]], METRICS)
    stored = scores_of_table(read_scores(tmp_path / "scores.parquet")[0])
    assert stored == [replace(SCORES[1], reason=r"said \ud800é"), SCORES[2]]
