"""A run whose data, or whose wish for likelihoods, changes between two sessions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_ray.cli.plan import show_plan
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.runs.work import prepare
from moe_ray.scoring.score import read_scores, scores_of_table
from moe_ray.store.run_directory import RunDirectory
from tests.runs.experiments import write
from tests.support.inline import Inline, inline

__all__ = ["inline"]

ASKS = "of 6 examples ask something else than before. They are computed; the earlier answers to them no longer count."
GRADED = "of 6 examples have another reference or label. Their answers are kept and graded again."


@pytest.fixture
def experiment(tmp_path: Path, inline: Inline) -> LoadedExperiment:
    """One that was run, without likelihoods."""
    made = write(
        tmp_path, {"m": {"path": "scripted/m", "engine_settings": {"text": "yes"}}}, matrix="full", likelihood=False
    )
    inline.evaluate(made)
    inline.computed.clear()
    return made


def change(experiment: LoadedExperiment, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    path = experiment.base_dir / "data.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    edit(records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def accuracy(run: RunDirectory) -> dict[str, float | None]:
    scores = scores_of_table(read_scores(run.scores_path)[0])
    return {score.example_id: score.value for score in scores if (score.metric, score.domain) == ("accuracy", "first")}


def test_a_record_that_asks_something_else_is_told_computed_and_graded_by_its_new_answer(
    experiment: LoadedExperiment, inline: Inline, capsys: pytest.CaptureFixture[str]
) -> None:
    change(experiment, lambda records: records[3].update(question="Is three odd?"))
    show_plan(experiment, "1x80GiB", None)
    shown = capsys.readouterr().out
    assert f"The data of first changed: 1 (t3) {ASKS}" in shown
    assert "2 answers in" in shown
    outcome = inline.evaluate(experiment)
    assert [cell.example_id for cell in inline.computed] == ["t3", "t3"]
    assert outcome.summary.run.num_cells_done == 14
    assert set(accuracy(outcome.run)) == {f"t{i}" for i in range(6)}
    assert [note for note in outcome.summary.run.notes if ASKS in note]
    again = inline.evaluate(experiment)
    assert prepare(experiment).changes == ()
    assert len([note for note in again.summary.run.notes if ASKS in note]) == 2  # one for each domain


def test_a_record_with_another_label_keeps_its_answer_and_is_graded_again(
    experiment: LoadedExperiment, inline: Inline
) -> None:
    run = prepare(experiment).run
    before = accuracy(run)
    change(experiment, lambda records: records[0].update(label="no"))
    assert prepare(experiment).changes == (
        f"The data of first changed: 1 (t0) {GRADED}", f"The data of second changed: 1 (t0) {GRADED}"
    )  # fmt: skip
    inline.evaluate(experiment)
    assert inline.computed == []
    assert {id for id, value in accuracy(run).items() if value != before[id]} == {"t0"}


def test_data_that_only_grows_changes_nothing_that_is_there(experiment: LoadedExperiment, inline: Inline) -> None:
    change(experiment, lambda records: records.append({"id": "t6", "question": "Is 6 even?", "label": "yes"}))
    assert prepare(experiment).changes == ()
    inline.evaluate(experiment)
    assert {cell.example_id for cell in inline.computed} == {"t6"}


def test_stored_examples_that_cannot_be_read_are_no_obstacle(experiment: LoadedExperiment, inline: Inline) -> None:
    run = prepare(experiment).run
    (run.path / "examples" / "first.jsonl").write_text("{\n")
    change(experiment, lambda records: records[0].update(label="no"))
    assert len(prepare(experiment).changes) == 1
    assert inline.evaluate(experiment).num_missing == 0


def test_likelihoods_are_added_to_a_finished_run_and_left_out_again(
    experiment: LoadedExperiment, inline: Inline
) -> None:
    measured = load_experiment(experiment.path, ["likelihood=true"])
    outcome = inline.evaluate(measured)
    assert {cell.kind for cell in inline.computed} == {"likelihood"}
    assert "bits_per_byte" in outcome.summary.metrics
    inline.computed.clear()
    outcome = inline.evaluate(experiment)
    assert (inline.computed, outcome.num_missing) == ([], 0)
    assert "bits_per_byte" not in outcome.summary.metrics
