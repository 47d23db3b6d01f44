"""Two runs side by side."""

from pathlib import Path

import pytest

from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import compare_runs
from moe_ray.comparison.summary import summarise
from moe_ray.scoring.score import Score
from tests.report.synthetic import ALL_METRICS, synthetic_run

Made = tuple[Summary, list[Score]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path: Path = tmp_path_factory.mktemp("runs") / "run"
    run, scores = synthetic_run(path, num_models=2, num_answers=120)
    return summarise(scores, ALL_METRICS, run.manifest(), run.telemetry(), run.answers_table()), scores


def test_a_run_against_itself_differs_in_nothing(made: Made) -> None:
    found = compare_runs(made[0], made[0], made[1], made[1])
    assert found.changes == []
    assert {pair.change.difference for pair in found.pairs if pair.change} == {0.0}
    assert {pair.change.verdict for pair in found.pairs if pair.change} == {"no_difference_shown"}


def test_settings_that_differ_are_named_with_both_values(made: Made) -> None:
    run = made[0].run
    identity = {"decoding": {"max_new_tokens": 64, "temperature": 0.0, "top_p": 0.9}}
    other = made[0].model_copy(update={"run": run.model_copy(update={"identity": identity, "name": "second"})})
    found = compare_runs(made[0], other, made[1], made[1])
    assert [(change.key, change.first, change.second) for change in found.changes] == [
        ("identity.decoding.max_new_tokens", "256", "64"),
        ("identity.decoding.top_p", "(absent)", "0.9"),
    ]


def test_the_change_is_second_minus_first_on_the_examples_of_both(made: Made) -> None:
    better = [
        Score(**{name: getattr(score, name) for name in Score.__slots__} | {"value": 1.0, "reason": None})
        for score in made[1]
        if score.metric != "accuracy" or score.example_id > "biomedical-00010"
    ]
    found = compare_runs(made[0], made[0], made[1], better)
    pair = next(p for p in found.pairs if (p.first.system, p.first.metric) == ("general-7b", "accuracy"))
    assert pair.change is not None
    assert pair.change.difference is not None
    assert pair.change.difference > 0
    assert (pair.change.verdict, pair.change.n_pairs, pair.change.n_dropped) == ("a_better", 49, 11)


def test_a_metric_that_was_redefined_is_shown_and_not_tested(made: Made) -> None:
    metrics = dict(made[0].metrics)
    metrics["accuracy"] = metrics["accuracy"].model_copy(update={"definition": "something else"})
    found = compare_runs(made[0], made[0].model_copy(update={"metrics": metrics}), made[1], made[1])
    assert found.redefined_metrics == ["accuracy"]
    assert all((pair.change is None) == (pair.first.metric == "accuracy") for pair in found.pairs)


def test_what_only_one_run_has_is_listed(made: Made) -> None:
    values = [value for value in made[0].values if value.system != "experts"]
    found = compare_runs(made[0], made[0].model_copy(update={"values": values}), made[1], made[1])
    assert found.only_second == []
    assert "experts / biomedical / accuracy" in found.only_first
