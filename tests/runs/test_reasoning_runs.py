"""Runs of models that reason: what is stored, what is graded, and what older runs give."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits
from moe_ray.engines.scripted import ScriptedEngine
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.manifest import begin
from moe_ray.runs.work import Prepared, prepare
from moe_ray.scoring.score import Score, read_scores, scores_of_table
from moe_ray.store.answers import Answer, to_table
from moe_ray.store.run_directory import RunDirectory
from tests.engines.asking import ask
from tests.execution.experiments import scripted, write_experiment
from tests.scoring.answering import generated

TRACE = "<think> The abstract reports no difference </think> Yes."
OF_EARLIER_VERSIONS = ["reasoning", "num_reasoning_tokens"]


def begun(experiment: LoadedExperiment) -> tuple[RunDirectory, Prepared]:
    prepared = prepare(experiment)
    prepared.run.prepare()
    begin(prepared)
    return prepared.run, prepared


def stored_as_earlier_versions_did(folder: Path, text: str, **model: Any) -> RunDirectory:
    """A run with one answer, whose trace is still in the text, in a file without the columns for traces."""
    run, prepared = begun(write_experiment(folder, {"m": {**scripted(), **model}}, num_examples=1))
    (cell,) = prepared.work.cells
    old: Answer = replace(
        generated(text), key=cell.key, domain=cell.domain, example_id=cell.example_id, model=cell.model
    )
    table = to_table([old]).drop_columns(OF_EARLIER_VERSIONS)
    pq.write_table(table, run.path / "answers" / "old.parquet")
    return run


def scores_of(run: RunDirectory) -> dict[str, Score]:
    pipeline.score(run)
    return {score.metric: score for score in scores_of_table(read_scores(run.scores_path)[0])}


def test_a_trace_in_the_text_of_an_older_run_is_not_graded(tmp_path: Path) -> None:
    scores = scores_of(stored_as_earlier_versions_did(tmp_path, TRACE))
    assert (scores["accuracy"].value, scores["macro_f1"].label) == (1.0, "yes")


def test_the_text_of_a_model_without_reasoning_is_graded_whole(tmp_path: Path) -> None:
    scores = scores_of(stored_as_earlier_versions_did(tmp_path, TRACE, reasoning="none"))
    assert (scores["accuracy"].value, scores["macro_f1"].label) == (0.0, "no")


def test_marks_named_after_the_run_are_used_when_it_is_graded_again(tmp_path: Path) -> None:
    marks = {"open": "BEGIN", "close": "END"}
    scores = scores_of(stored_as_earlier_versions_did(tmp_path, "BEGIN no END yes", reasoning=marks))
    assert scores["accuracy"].value == 1.0


@pytest.mark.parametrize(
    ("text", "limit", "told"),
    [
        (TRACE, 50, ("Yes.", "The abstract reports no difference", 7)),
        (TRACE, 4, ("", "The abstract reports", 4)),
        ("Yes, it does.", 50, ("Yes, it does.", None, None)),
    ],
)
def test_the_scripted_engine_tells_a_trace_and_its_tokens_apart(
    text: str, limit: int, told: tuple[str, str | None, int | None]
) -> None:
    config = ModelConfig(path="m", engine="scripted", engine_settings={"text": text})
    engine = ScriptedEngine(config, BatchLimits(max_rows=1, cache_memory_bytes=1))
    (out,) = engine.generate([ask("Does it?", num=limit)])
    assert (out.text, out.reasoning, out.num_reasoning_tokens) == told
    assert out.num_completion_tokens == len(text.split()[:limit])
