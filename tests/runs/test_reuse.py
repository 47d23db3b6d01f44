"""Answers of other run directories, taken over by their keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe_ray.cli.plan import show_plan
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.errors import RunDirectoryError
from moe_ray.runs import evaluate as pipeline
from moe_ray.scoring.score import read_scores, scores_of_table
from moe_ray.store.answers import CONTENT_COLUMNS
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import Recorder
from tests.runs.experiments import unscored, write
from tests.support.inline import Inline, inline

__all__ = ["inline"]

X, Y, Z = ({"path": f"scripted/{name}"} for name in "xyz")


def evaluate(experiment: LoadedExperiment, *sources: RunDirectory) -> pipeline.Outcome:
    return pipeline.evaluate(experiment, Recorder(), reuse=sources)


@pytest.fixture
def other(tmp_path: Path, inline: Inline) -> RunDirectory:
    """A finished run of two models."""
    run = inline.evaluate(write(tmp_path / "other", {"a": X, "b": Y}, matrix="full")).run
    inline.computed.clear()
    return run


def contents(run: RunDirectory, *, names: dict[str, str]) -> list[dict[str, Any]]:
    rows = run.answers_table(list(CONTENT_COLUMNS)).sort_by("key").to_pylist()
    return [{**row, "model": names[row["model"]]} for row in rows if row["model"] in names]


def scores_of(run: RunDirectory, model: str) -> set[tuple[str, str, str, float | None]]:
    scores = scores_of_table(read_scores(run.scores_path)[0])
    return {(score.domain, score.example_id, score.metric, score.value) for score in scores if score.model == model}


def edit(run: RunDirectory, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the answers of a run again, each changed."""
    table = run.answers_table()
    for path in (run.path / "answers").iterdir():
        path.unlink()
    rows = [change(row) for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run.path / "answers" / "changed.parquet")


def test_two_fine_tunes_of_two_runs_meet_in_a_third_without_any_work(
    tmp_path: Path, other: RunDirectory, inline: Inline
) -> None:
    second = inline.evaluate(write(tmp_path / "second", {"c": Z}, matrix="full")).run
    inline.computed.clear()
    experiment = write(tmp_path / "third", {"one": X, "two": Z}, matrix="full")
    outcome = evaluate(experiment, other, second)
    assert (inline.computed, outcome.num_missing, outcome.summary.run.complete) == ([], 0, True)
    assert unscored(outcome.run) == set()
    assert contents(outcome.run, names={"a": "one", "c": "two"}) == sorted(
        [*contents(other, names={"a": "one"}), *contents(second, names={"c": "two"})], key=lambda row: row["key"]
    )
    scores = [
        {
            (s.domain, s.example_id, s.metric, s.value)
            for s in scores_of_table(read_scores(run.scores_path)[0])
            if s.model == name
        }
        for run, name in ((other, "a"), (outcome.run, "one"))
    ]
    assert scores[0] == scores[1]


def test_what_others_lack_is_computed_and_costs_are_those_of_all_answers(
    tmp_path: Path, other: RunDirectory, inline: Inline
) -> None:
    experiment = write(tmp_path / "mine", {"one": X, "new": Z}, matrix="full")
    outcome = evaluate(experiment, other)
    assert {cell.model for cell in inline.computed} == {"new"}
    assert outcome.num_missing == 0
    found = outcome.summary.models
    assert (found["one"].num_answers, found["one"].devices) == (24, ["reused"])
    assert (found["new"].num_answers, found["new"].devices) == (24, ["cpu"])
    assert found["one"].busy_s == pytest.approx(
        sum(row["total_s"] / row["batch_rows"] for row in other.answers_table().to_pylist() if row["model"] == "a")
    )
    assert inline.evaluate(experiment).num_missing == 0
    assert outcome.run.manifest().sessions[0].cells_done_after == 48


def test_a_plan_says_what_would_be_reused_and_writes_nothing(
    tmp_path: Path, other: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = write(tmp_path / "mine", {"one": X, "new": Z}, matrix="full")
    show_plan(experiment, "1x80GiB", None, [other.path])
    shown = capsys.readouterr().out
    assert f"24 answers would be taken from {other.path}." in shown
    assert "24 answers in" in shown
    assert not (tmp_path / "mine" / "results").exists()


def test_only_the_keys_count_and_never_the_names(tmp_path: Path, other: RunDirectory, inline: Inline) -> None:
    experiment = write(tmp_path / "mine", {"a": Y, "b": Z}, matrix="full")
    assert evaluate(experiment, other).num_missing == 0
    assert {cell.model for cell in inline.computed} == {"b"}


def test_another_decoding_reuses_nothing(tmp_path: Path, other: RunDirectory, inline: Inline) -> None:
    made = write(tmp_path / "mine", {"a": X}, matrix="full", likelihood=False)
    evaluate(load_experiment(made.path, ["decoding.max_new_tokens=9"]), other)
    assert len(inline.computed) == 12


@pytest.mark.parametrize(
    "lie",
    [
        {"example_id": "t9"}, {"domain": "elsewhere"}, {"sample_index": 7}, {"messages": "[]"}, {"messages": "{"},
        {"settings": "[" * 5000}, {"kind": "other"}, {"error": "e"}, {"finish_reason": "error"},
        {"total_s": float("nan")}, {"batch_rows": 0}, {"text": None, "loglikelihoods": None},
        {"text": None, "loglikelihoods": [float("nan")]},
    ],
    ids=lambda lie: "-".join(lie),
)  # fmt: skip
def test_a_row_that_does_not_answer_its_cell_is_not_taken(
    tmp_path: Path, other: RunDirectory, inline: Inline, lie: dict[str, Any]
) -> None:
    edit(other, lambda row: {**row, **lie})
    outcome = evaluate(write(tmp_path / "mine", {"a": X}, matrix="full"), other)
    assert (len(inline.computed), outcome.num_missing, unscored(outcome.run)) == (24, 0, set())


def test_a_directory_without_a_run_is_refused_before_anything_is_computed(tmp_path: Path, inline: Inline) -> None:
    with pytest.raises(RunDirectoryError, match="no run here"):
        evaluate(write(tmp_path, {"a": X}, matrix="full"), RunDirectory(tmp_path / "nothing"))
    assert inline.computed == []


def test_a_run_can_be_given_to_itself(other: RunDirectory, inline: Inline) -> None:
    experiment = load_experiment(other.path.parents[1] / "experiment.yaml")
    before = other.answers_table().num_rows
    assert evaluate(experiment, other).num_missing == 0
    assert (other.answers_table().num_rows, inline.computed) == (before, [])
