"""Graders of the user's own: a class beside the experiment file, with settings."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.load import load_experiment
from moe_ray.config.schema import DecodingConfig, DomainConfig, SandboxConfig
from moe_ray.errors import ConfigError
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.manifest import begin
from moe_ray.runs.work import Prepared, prepare
from moe_ray.scoring.grade import _grade
from moe_ray.scoring.registry import make_graders
from moe_ray.scoring.score import Grader, Score, read_scores, scores_of_table
from moe_ray.store.answers import to_table
from tests.scoring.answering import example, generated
from tests.support.graded import made_from

MODULE = """
from dataclasses import dataclass

from moe_ray.scoring.samples import TextGrader, UnscorableError, score
from moe_ray.scoring.score import Metric


class Length(TextGrader):
    def __init__(self, unit="characters", most=100):
        super().__init__()
        self.unit, self.most = unit, most
        self.metrics = (Metric(name=f"length_in_{unit}", definition="length"),)

    def measure(self, example, text):
        if not text:
            raise UnscorableError("nothing to measure", failed=True)
        return (float(min(self.most, len(text.split() if self.unit == "words" else text))),)


class Batched:
    metrics = (Metric(name="batch_size", definition="how many came at once"),)

    def grade(self, example, model, answers):
        return self.grade_many([(example, model, answers)])[0]

    def grade_many(self, items):
        if any(not answers for _, _, answers in items):
            raise RuntimeError("no answers")
        return [[score(example, model, self.metrics[0], float(len(items)))] for example, model, _ in items]


class WithoutMetrics:
    def grade(self, example, model, answers):
        return []


class RewardsFailure(Batched):
    metrics = (Metric(name="errors", definition="count", higher_is_better=False),)


class Wrong(Batched):
    def __init__(self, how):
        self.how = how

    def grade_many(self, items):
        rows = super().grade_many(items)
        if self.how == "too few":
            return rows[1:]
        if self.how == "none":
            return None
        if self.how == "no scores":
            return [1 for _ in rows]
        if self.how == "no list":
            return [row[0] for row in rows]
        if self.how == "other metric":
            metric = Metric(name="other", definition="other")
            return [[score(example, model, metric, 1.0)] for example, model, _ in items]
        if self.how == "text":
            return [[score(example, model, self.metrics[0], "1")] for example, model, _ in items]
        return [[score(example, "another", self.metrics[0], 1.0)] for example, model, _ in items]


class Raises:
    metrics = (Metric(name="never", definition="never"),)

    def grade(self, example, model, answers):
        raise KeyError(example.id)


not_a_class = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own_graders_of_a_test.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("own_graders_of_a_test", None)


def make(folder: Path, name: str, /, **settings: Any) -> Grader:
    graders = [{"name": f"own_graders_of_a_test:{name}", "settings": settings}]
    domain = DomainConfig.model_validate({"task": "decision", "data": {"source": "x"}, "graders": graders})
    names, where = domain.grader_names or (), "domains.d.graders"
    (grader,) = make_graders(names, domain, DecodingConfig(), SandboxConfig(), base_dir=folder, where=where)
    return grader


def graded(grader: Grader, *texts: str | None) -> list[Score]:
    """Grade one example for each text; None has no answer at all."""
    items = [
        (example(f"e{at}"), "m", [] if text is None else [generated(text, of=example(f"e{at}"))])
        for at, text in enumerate(texts)
    ]
    return list(_grade(grader, items))


def test_a_class_beside_the_experiment_grades_with_its_settings(folder: Path) -> None:
    assert [score.value for score in graded(make(folder, "Length"), "two words")] == [9.0]
    grader = make(folder, "Length", unit="words", most=1)
    assert [metric.name for metric in grader.metrics] == ["length_in_words"]
    assert [score.value for score in graded(grader, "two words", "one")] == [1.0, 1.0]


def test_an_unscorable_answer_carries_the_graders_own_reason(folder: Path) -> None:
    (score,) = graded(make(folder, "Length"), "")
    assert (score.value, score.reason, score.failed) == (None, "nothing to measure", True)


def test_a_batch_comes_at_once_and_one_faulty_example_spoils_no_other(folder: Path) -> None:
    grader = make(folder, "Batched")
    assert [score.value for score in graded(grader, "a", "b", "c")] == [3.0] * 3
    scores = graded(grader, "a", None, "c")
    assert [score.value for score in scores] == [1.0, None, 1.0]
    assert scores[1].reason == "own_graders_of_a_test:Batched failed: RuntimeError: no answers"
    assert not scores[1].failed


def test_a_grader_that_raises_leaves_the_example_unscored(folder: Path) -> None:
    scores = graded(make(folder, "Raises"), "a", "b")
    assert [(score.value, score.reason) for score in scores] == [
        (None, "own_graders_of_a_test:Raises failed: KeyError: 'e0'"),
        (None, "own_graders_of_a_test:Raises failed: KeyError: 'e1'"),
    ]


@pytest.mark.parametrize("how", ["too few", "none", "no scores", "no list", "other metric", "text", "another model"])
def test_what_breaks_the_protocol_ends_the_grading_with_words(folder: Path, how: str) -> None:
    with pytest.raises(ConfigError) as caught:
        graded(make(folder, "Wrong", how=how), "a", "b")
    assert caught.value.where == "domains.d.graders.0"
    assert "own_graders_of_a_test:Wrong" in caught.value.what
    assert "docs/how-to/write-a-grader.md" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("name", "settings", "what", "where"),
    [
        ("Nothing", {}, "has no 'Nothing'", ""),
        ("not_a_class", {}, "is not a grader", ""),
        ("WithoutMetrics", {}, "has no metrics", ""),
        ("RewardsFailure", {}, "would reward failed answers", ""),
        ("Length", {"units": "words"}, "cannot be made with units='words'", ".0.settings"),
        ("Wrong", {}, "cannot be made with no settings", ".settings"),
    ],
)
def test_a_class_that_is_no_grader_is_refused_at_its_key(
    folder: Path, name: str, settings: dict[str, Any], what: str, where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(folder, name, **settings)
    assert what in caught.value.what
    assert str(caught.value.where) == f"domains.d.graders{where}"


def test_a_module_that_is_not_there_is_refused(tmp_path: Path) -> None:
    domain = DomainConfig.model_validate({"task": "decision", "data": {"source": "x"}})
    with pytest.raises(ConfigError, match="cannot import 'no_module_of_this_name'"):
        make_graders(["no_module_of_this_name:A"], domain, DecodingConfig(), SandboxConfig(), base_dir=tmp_path)


def test_settings_and_code_of_a_grader_enter_the_manifest_and_the_grading_but_no_cell(folder: Path) -> None:
    (folder / "d.jsonl").write_text(json.dumps({"id": "a", "question": "q", "label": "yes"}) + "\n")

    def prepared_with(unit: str) -> tuple[Prepared, str]:
        (folder / "experiment.yaml").write_text(
            f"""
name: own
models: {{m: {{path: scripted/m, engine: scripted}}}}
baseline: m
likelihood: false
domains:
  d:
    task: decision
    data: {{source: ./d.jsonl}}
    choices: [yes, no]
    graders:
      - decision
      - name: own_graders_of_a_test:Length
        settings: {{unit: {unit}}}
output: {{results_dir: {folder / "results"}}}
"""
        )
        experiment = load_experiment(folder / "experiment.yaml")
        prepared = prepare(experiment)
        prepared.run.prepare()
        begin(prepared)
        return prepared, made_from(prepared.run)

    prepared, in_words = prepared_with("words")
    section = prepared.run.manifest().domains["d"]
    assert section["graders"] == ["decision", "own_graders_of_a_test:Length"]
    assert section["grader_settings"] == [{}, {"unit": "words"}]
    assert list(section["grader_code"]) == ["own_graders_of_a_test:Length"]
    (cell,) = prepared.cells
    other, in_characters = prepared_with("characters")
    assert in_characters != in_words
    assert [one.key for one in other.cells] == [cell.key]
    assert prepared_with("words")[1] == in_words
    (folder / "own_graders_of_a_test.py").write_text(MODULE + "\n")
    sys.modules.pop("own_graders_of_a_test")
    assert prepared_with("words")[1] != in_words


def test_manifests_of_earlier_versions_name_graders_alone(folder: Path) -> None:
    (folder / "d.jsonl").write_text(json.dumps({"id": "a", "question": "q", "label": "yes"}) + "\n")
    (folder / "experiment.yaml").write_text(
        f"""
name: old
models: {{m: {{path: scripted/m, engine: scripted}}}}
baseline: m
likelihood: false
domains:
  d: {{task: decision, data: {{source: ./d.jsonl}}, choices: [yes, no]}}
output: {{results_dir: {folder / "results"}}}
"""
    )
    experiment = load_experiment(folder / "experiment.yaml")
    prepared = prepare(experiment)
    run, (cell,) = prepared.run, prepared.cells
    run.prepare()
    manifest = begin(prepared).manifest
    for name in ("grader_settings", "grader_code"):
        del manifest.domains["d"][name]
    run.write_manifest(manifest)
    answer = generated("yes", of=example("a", domain="d"))
    table = to_table([answer])
    run.write_shard_table(table.set_column(0, table.schema.field("key"), [[cell.key]]))
    pipeline.score(run)
    scores = scores_of_table(read_scores(run.scores_path)[0])
    assert {score.metric: score.value for score in scores}["accuracy"] == 1.0
