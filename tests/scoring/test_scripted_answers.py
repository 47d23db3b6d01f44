"""Scripted answers of every kind, each read right: by the graders, and by a whole run of the scripted engine."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_ray.config.load import load_experiment
from moe_ray.config.schema import DecodingConfig, DomainConfig, ModelConfig, SandboxConfig
from moe_ray.prompts.reasoning import move_trace, splitter_of
from moe_ray.runs import evaluate as pipeline
from moe_ray.scoring.registry import make_graders
from moe_ray.scoring.score import Score, read_scores, scores_of_table
from tests.execution.experiments import RUNTIME, Recorder
from tests.scoring.answering import example, generated
from tests.scoring.scripted_answers import CASES, Case


def outcome(case: Case, scores: Iterable[Score]) -> tuple[str | None, bool]:
    """Return what the scores say was read, if they do (a number is read if it is the gold one), and the failure."""
    by_metric = {score.metric: score for score in scores}
    if not case.choices:
        found = by_metric["final_number"]
        return (case.read if found.value == 1.0 else None), found.failed
    found = by_metric["macro_f1"]
    return (None if found.label in ("unparsed", None) else found.label), by_metric["accuracy"].failed


def grader_of(case: Case) -> dict[str, Any]:
    return {"name": "decision" if case.choices else "final_number", "settings": dict(case.settings)}


def test_there_are_enough_cases_of_each_kind() -> None:
    assert len(CASES) >= 60
    assert len({(case.text, case.choices, repr(case.settings)) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.text)[:40])
def test_a_scripted_answer_is_read_right(case: Case) -> None:
    section = {"task": "decision", "data": {"source": "x"}, "graders": [grader_of(case)]}
    domain = DomainConfig.model_validate(section)
    names = domain.grader_names or ()
    (grader,) = make_graders(names, domain, DecodingConfig(), SandboxConfig(), base_dir=Path())
    grading = (
        {"label": case.read or "A", "choices": list(case.choices)} if case.choices else {"number": case.read or "0"}
    )
    answer = move_trace(generated(case.text), splitter_of(ModelConfig(path="m")))
    scores = grader.grade(example(**grading), "m", [answer])
    assert outcome(case, scores) == (case.read, case.read is None)


@pytest.mark.usefixtures("local_ray")
def test_a_run_of_the_scripted_engine_reads_every_answer_right(tmp_path: Path) -> None:
    """One domain for each set of choices and settings; the engine tells reasoning apart, the store keeps both."""
    domains: dict[str, Any] = {}
    replies: dict[str, str] = {}
    cases: dict[str, Case] = {}
    kinds = itertools.groupby(
        sorted(CASES, key=lambda case: (case.choices, repr(case.settings))), lambda case: (case.choices, case.settings)
    )
    for number, ((choices, _), group) in enumerate(kinds):
        records = []
        for at, case in enumerate(group):
            place = f"d{number}-{at}"
            cases[place], replies[place] = case, case.text
            gold = {"label": case.read or choices[0]} if choices else {"answer": f"#### {case.read or 0}"}
            records.append({"id": place, "question": f"What is {place}?", **gold})
        (tmp_path / f"d{number}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        domains[f"d{number}"] = {
            "task": "decision" if choices else "math",
            "data": {"source": f"./d{number}.jsonl"},
            "graders": [grader_of(case)],
            **({"choices": list(choices)} if choices else {}),
        }
    model = {"path": "scripted/m", "engine": "scripted", "engine_settings": {"replies": replies}}
    experiment = {
        "name": "scripted",
        "models": {"m": model},
        "baseline": "m",
        "likelihood": False,
        "domains": domains,
        "runtime": {**RUNTIME, "shard_size": 64},
        "output": {"results_dir": str(tmp_path / "results")},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    done = pipeline.evaluate(load_experiment(tmp_path / "experiment.yaml"), Recorder())
    table, _ = read_scores(done.run.scores_path)
    scores = sorted(scores_of_table(table), key=lambda score: score.example_id)
    found = {
        place: outcome(cases[place], group)
        for place, group in itertools.groupby(scores, lambda score: score.example_id)
    }
    assert found == {place: (case.read, case.read is None) for place, case in cases.items()}
    answers = {answer.example_id: answer for answer in done.run.answers()}
    thought = [answer for answer in answers.values() if answer.reasoning is not None]
    assert len(thought) == 15
    assert all(answer.num_reasoning_tokens and answer.reasoning for answer in thought)
    assert not any("<think>" in (answer.text or "") for answer in answers.values())
