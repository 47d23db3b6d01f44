"""A cell is one cell under every name of its checkpoint: names may be shared, changed and swapped at no cost."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import RunDirectoryError
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.work import prepare, probe_cells
from moe_ray.scoring.score import read_scores, scores_of_table
from moe_ray.store.run_directory import RunDirectory
from tests.runs.experiments import unscored, write
from tests.support.inline import Inline, inline

__all__ = ["inline"]

SAME = "scripted/the-same"


def values_of(run: RunDirectory, name: str) -> str:
    """All that the summary says of a model, as text without its name: values, costs, latencies, cut prompts."""
    summary = json.loads(run.summary_path.read_text())
    found = {
        "values": [value for value in summary["values"] if value["system"] == name],
        "resources": summary["models"].get(name),
        "costs": [cost for cost in summary["costs"] if cost["system"] == name],
        "cut": [cut for cut in summary["truncated_prompts"] if cut["model"] == name],
    }
    return re.sub(rf"\b{re.escape(name)}\b", "NAME", json.dumps(found))


def num_left(experiment: LoadedExperiment) -> int:
    return prepare(experiment).work.num_to_do


def aa(folder: Path, **more: Any) -> LoadedExperiment:
    """One checkpoint as baseline and as the expert of the first domain."""
    models: dict[str, dict[str, Any]] = {
        "base": {"path": SAME},
        "expert": {"path": SAME, "gpus": 0, "notes": ["a twin"]},
    }
    return write(folder, models, baseline="base", experts={"first": "expert"}, **more)


def test_an_aa_check_shows_two_equal_models_with_every_answer_scored(tmp_path: Path, inline: Inline) -> None:
    outcome = inline.evaluate(aa(tmp_path, matrix="full"))
    assert (outcome.num_missing, unscored(outcome.run)) == (0, set())
    assert outcome.summary.run.complete
    assert values_of(outcome.run, "base") == values_of(outcome.run, "expert")
    assert '"n": 6' in values_of(outcome.run, "base")
    differences = {(item.system_a, item.difference) for item in outcome.summary.comparisons if item.domain == "first"}
    assert differences == {("experts", 0.0)}
    assert len(inline.computed) == len({cell.key for cell in inline.computed}) == 2 * 6 * 2
    assert "base, expert: They are the same checkpoint." in outcome.run.report_path.read_text()


def test_an_expert_that_is_the_baseline_is_scored_on_its_domain_alone(tmp_path: Path, inline: Inline) -> None:
    experiment = aa(tmp_path)
    outcome = inline.evaluate(experiment)
    assert {cell.model for cell in inline.computed} == {"base"}
    scores = scores_of_table(read_scores(outcome.run.scores_path)[0])
    assert {(score.model, score.domain) for score in scores} == {
        ("base", "first"), ("base", "second"), ("expert", "first")
    }  # fmt: skip
    assert {score.reason for score in scores if not score.failed} == {None}
    costs = {(cost.system, cost.domain): cost.busy_s for cost in outcome.summary.costs}
    assert costs["experts", "first"] == costs["baseline", "first"]


def test_three_names_and_sampled_decoding(tmp_path: Path, inline: Inline) -> None:
    models = {name: {"path": SAME} for name in ("a", "b", "c")}
    sampled = {"max_new_tokens": 8, "temperature": 0.7, "samples_per_example": 3}
    outcome = inline.evaluate(write(tmp_path, models, matrix="full", decoding=sampled))
    assert values_of(outcome.run, "a") == values_of(outcome.run, "b") == values_of(outcome.run, "c")
    assert unscored(outcome.run) == set()
    assert len(inline.computed) == 2 * 6 * 4


def test_twins_with_another_prompt_style_are_two_models(tmp_path: Path, inline: Inline) -> None:
    models = {"chat": {"path": SAME}, "plain": {"path": SAME, "prompt_style": "completion"}}
    outcome = inline.evaluate(write(tmp_path, models, matrix="full"))
    assert [sum(cell.model == name for cell in inline.computed) for name in models] == [24, 24]
    assert unscored(outcome.run) == set()
    assert {name: found.num_answers for name, found in outcome.summary.models.items()} == {"chat": 24, "plain": 24}


def test_renaming_a_model_of_a_finished_run_costs_nothing_and_loses_nothing(tmp_path: Path, inline: Inline) -> None:
    before = inline.evaluate(write(tmp_path, {"old": {"path": SAME}, "x": {"path": "scripted/x"}}, matrix="full"))
    told = {name: values_of(before.run, name) for name in ("old", "x")}
    inline.computed.clear()
    renamed = write(tmp_path, {"new": {"path": SAME}, "x": {"path": "scripted/x"}}, matrix="full")
    assert num_left(renamed) == 0
    after = inline.evaluate(renamed)
    assert (inline.computed, after.num_missing, unscored(after.run)) == ([], 0, set())
    assert {"old": values_of(after.run, "new"), "x": values_of(after.run, "x")} == told


def test_a_run_that_is_renamed_half_way_goes_on_where_it_stopped(tmp_path: Path, inline: Inline) -> None:
    inline.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        inline.evaluate(write(tmp_path, {"old": {"path": SAME}}, matrix="full"))
    inline.stop_after = None
    done = {cell.key for cell in inline.computed}
    assert len(done) == 8
    after = inline.evaluate(write(tmp_path, {"new": {"path": SAME}}, matrix="full"))
    assert len(inline.computed) == len({cell.key for cell in inline.computed}) == 24
    assert unscored(after.run) == set()
    assert after.summary.models["new"].num_answers == 24


def test_two_names_that_are_swapped_take_their_answers_along(tmp_path: Path, inline: Inline) -> None:
    one, other = {"path": "scripted/one"}, {"path": "scripted/other", "engine_settings": {}}
    before = inline.evaluate(write(tmp_path, {"a": one, "b": other}, matrix="full"))
    told = [values_of(before.run, name) for name in ("a", "b")]
    assert told[0] != told[1]
    swapped = write(tmp_path, {"b": one, "a": other}, matrix="full")
    assert num_left(swapped) == 0
    after = inline.evaluate(swapped)
    assert [values_of(after.run, name) for name in ("b", "a")] == told
    assert len(inline.computed) == 48


def test_a_name_that_is_given_to_another_model_is_still_refused(tmp_path: Path, inline: Inline) -> None:
    inline.evaluate(write(tmp_path, {"a": {"path": "scripted/one"}}, matrix="full"))
    with pytest.raises(RunDirectoryError, match=r"models\.a\.path: scripted/one -> scripted/other"):
        inline.evaluate(write(tmp_path, {"a": {"path": "scripted/other"}}, matrix="full"))


def test_a_twin_of_a_model_that_was_given_up_stands_as_unscored_too(tmp_path: Path, inline: Inline) -> None:
    inline.broken.add("base")
    outcome = inline.evaluate(aa(tmp_path))
    assert outcome.num_missing == 24
    assert unscored(outcome.run) == {("base", "no answer"), ("expert", "no answer")}


def test_a_plan_says_which_cells_a_twin_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from moe_ray.cli.plan import show_plan

    show_plan(aa(tmp_path), "1x80GiB", None)
    shown = capsys.readouterr().out
    assert "expert shares 12 cells with base (the same checkpoint): each is computed once" in shown
    assert "24 answers in" in shown


def test_rows_of_one_cell_under_two_names_count_once_for_each_name(tmp_path: Path, inline: Inline) -> None:
    """As a run directory of an earlier version may hold them: it computed the cells of each name."""
    experiment = aa(tmp_path, matrix="full")
    run = inline.evaluate(experiment).run
    told = values_of(run, "base")
    table = run.answers_table()
    at = table.schema.get_field_index("model")
    twin = table.set_column(at, table.schema.field(at), [["expert"] * table.num_rows])
    for rows in (twin.slice(0, 5), twin.slice(5)):
        run.write_shard_table(rows)
    assert run.answers_table().num_rows == 2 * table.num_rows
    pipeline.score(run)
    pipeline.report(run)
    assert values_of(run, "base") == values_of(run, "expert")
    assert values_of(run, "base") == told


def test_of_two_rows_of_one_cell_the_one_without_an_error_counts(tmp_path: Path, inline: Inline) -> None:
    run = inline.evaluate(aa(tmp_path, likelihood=False)).run
    whole = scores_of_table(read_scores(run.scores_path)[0])
    failed = run.answers_table()
    columns = {"text": None, "token_ids": None, "error": "out of memory", "finish_reason": "error", "finished_at": 0.0}
    for name, value in columns.items():
        at = failed.schema.get_field_index(name)
        field = failed.schema.field(at)
        failed = failed.set_column(at, field, pa.array([value] * failed.num_rows, field.type))
    run.write_shard_table(failed.slice(0, 7))
    pipeline.score(run)
    assert scores_of_table(read_scores(run.scores_path)[0]) == whole
    assert pipeline.report(run).run.num_answers_with_error == 0


def test_telemetry_of_an_earlier_version_follows_its_checkpoint_by_the_keys_it_answered(
    tmp_path: Path, inline: Inline
) -> None:
    one, other = {"path": "scripted/one"}, {"path": "scripted/other"}
    before = inline.evaluate(write(tmp_path, {"a": one, "b": other}, matrix="full"))
    told = [values_of(before.run, name) for name in ("a", "b")]
    for path in (before.run.path / "telemetry").glob("*.json"):
        record = json.loads(path.read_text())
        del record["identity"]
        path.write_text(json.dumps(record))
    after = inline.evaluate(write(tmp_path, {"b": one, "a": other}, matrix="full"))
    assert [values_of(after.run, name) for name in ("b", "a")] == told


def test_answers_that_were_merged_keep_every_name(
    tmp_path: Path, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moe_ray.store import answers as answer_files

    monkeypatch.setattr(answer_files, "MIN_FILES_TO_MERGE", 2)
    run = inline.evaluate(aa(tmp_path, matrix="full")).run
    assert len(list((run.path / "answers").iterdir())) == 1
    assert unscored(run) == set()
    assert values_of(run, "base") == values_of(run, "expert")


def test_a_model_is_not_probed_again_under_a_new_name(tmp_path: Path, inline: Inline) -> None:
    runtime = {"shard_size": 4, "batch_size": 2, "probe_examples": 2}
    run = inline.evaluate(write(tmp_path, {"old": {"path": SAME}}, matrix="full", runtime=runtime)).run
    (record,) = run.telemetry()
    timing = {"example_id": "t1", "num_prompt_tokens": 1, "num_completion_tokens": 1}
    record.probe = [type(record).model_validate({**record.model_dump(), "probe": [
        {**timing, "time_to_first_token_s": None, "total_s": 1.0}]}).probe[0]]  # fmt: skip
    run.write_telemetry(record)
    renamed = write(tmp_path, {"new": {"path": SAME}}, matrix="full", runtime=runtime)
    assert probe_cells(prepare(renamed)) == {}
