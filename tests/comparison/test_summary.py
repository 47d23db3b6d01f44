"""The summary of a whole run: what is in it, and that order and sharding leave no trace."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from moe_ray.comparison.columns import score_matrix
from moe_ray.comparison.records import Summary
from moe_ray.comparison.summary import summarise
from moe_ray.comparison.systems import ExampleSystem, standard_systems
from moe_ray.scoring.score import Score
from moe_ray.store.run_directory import RunDirectory
from tests.comparison.columns import scores_of
from tests.support.synthetic_run import ALL_METRICS, synthetic_run

Run = tuple[RunDirectory, list[Score]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path: Path = tmp_path_factory.mktemp("summary") / "run"
    return synthetic_run(path, num_models=4, num_answers=360)


def summary_of(made: Run, scores: list[Score] | None = None, answers: pa.Table | None = None) -> Summary:
    run, all_scores = made
    table = run.answers_table() if answers is None else answers
    return summarise(scores or all_scores, ALL_METRICS, run.manifest(), run.telemetry(), table)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_scores_gives_the_same_summary_to_the_last_bit(made: Run, seed: int) -> None:
    shuffled = list(made[1])
    random.Random(seed).shuffle(shuffled)
    assert summary_of(made, shuffled).model_dump_json() == summary_of(made).model_dump_json()


def test_any_partition_of_scores_merges_to_the_same_summary_to_the_last_bit(made: Run) -> None:
    shards = [[score for score in made[1] if int(score.example_id[-5:]) % 7 == at] for at in (3, 1, 6, 0, 2, 5, 4)]
    merged = [score for shard in shards for score in shard]
    assert summary_of(made, merged).model_dump_json() == summary_of(made).model_dump_json()


def test_any_order_of_answers_and_replicas_gives_the_same_summary_to_the_last_bit(made: Run) -> None:
    run, scores = made
    table = run.answers_table()
    rows = list(range(table.num_rows))
    random.Random(4).shuffle(rows)
    replicas = list(reversed(run.telemetry()))
    shuffled = summarise(scores, ALL_METRICS, run.manifest(), replicas, table.take(rows))
    assert shuffled.model_dump_json() == summary_of(made).model_dump_json()


def test_a_summary_survives_being_written_and_read(made: Run) -> None:
    summary = summary_of(made)
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_the_experts_values_are_those_of_each_domains_expert(made: Run) -> None:
    summary = summary_of(made)
    for domain, expert in summary.run.experts.items():
        for metric in summary.domain_metrics[domain]:
            policy, alone = summary.value("experts", domain, metric), summary.value(expert, domain, metric)
            assert policy is not None
            assert alone is not None
            assert policy.model_dump(exclude={"system"}) == alone.model_dump(exclude={"system"})


def test_every_policy_is_compared_with_the_baseline_on_every_metric(made: Run) -> None:
    summary = summary_of(made)
    places = [(item.system_a, item.system_b, item.domain, item.metric) for item in summary.comparisons]
    expected = [
        ("experts", "baseline", domain, name) for domain, names in summary.domain_metrics.items() for name in names
    ]
    assert places == expected
    for item in summary.comparisons:
        value = summary.value("experts", item.domain, item.metric)
        assert value is not None
        assert item.n_pairs + item.n_dropped == value.n + value.n_unscored


def test_an_unscored_answer_is_counted_with_its_reason_and_is_no_zero(made: Run) -> None:
    value = summary_of(made).value("legal-expert", "legal", "rouge_l")
    assert value is not None
    assert value.n_unscored == 1
    assert list(value.unscored_reasons.values()) == [1]
    scored = [s.value for s in made[1] if (s.model, s.domain, s.metric) == ("legal-expert", "legal", "rouge_l")]
    known = [score for score in scored if score is not None]
    assert value.value == pytest.approx(sum(known) / len(known))


def test_a_given_up_expert_has_no_value_and_says_why_not(made: Run) -> None:
    scores = [score for score in made[1] if score.model != "legal-expert"]
    summary = summary_of(made, scores)
    value = summary.value("experts", "legal", "rouge_l")
    assert value is not None
    assert (value.value, value.n, value.n_unscored) == (None, 0, 30)
    comparison = next(item for item in summary.comparisons if (item.domain, item.metric) == ("legal", "rouge_l"))
    assert (comparison.verdict, comparison.n_pairs) == ("not_concluded", 0)
    assert comparison.not_concluded == (
        "30 of 30 examples have no score of experts or baseline; at most 5% may be missing"
    )


def test_the_headline_metric_of_a_domain_comes_first(made: Run) -> None:
    found = {domain: names[0] for domain, names in summary_of(made).domain_metrics.items()}
    assert found == {"biomedical": "accuracy", "legal": "rouge_l", "code": "pass@1"}


def test_busy_time_is_divided_over_the_examples_without_remainder(made: Run) -> None:
    summary = summary_of(made)
    for model, resources in summary.models.items():
        costs = [cost for domain in summary.domain_metrics if (cost := summary.cost(model, domain)) is not None]
        assert sum(cost.busy_s * cost.n for cost in costs) == pytest.approx(resources.busy_s)


def test_a_system_that_picks_by_example_takes_each_score_from_its_model(made: Run) -> None:
    """An oracle is at least as good as every model alone, on every example."""
    run, scores = made
    best: dict[str, tuple[float, str]] = {}
    for score in scores:
        if score.metric == "rouge_l" and score.value is not None:
            best[score.example_id] = max(best.get(score.example_id, (0.0, "")), (score.value, score.model))
    ids = sorted(best, reverse=True)  # another order than the matrix's
    oracle = ExampleSystem(
        name="best",
        definition="the best model for each example",
        members=frozenset(model for _, model in best.values()),
        example_ids={"legal": ids},
        chosen={"legal": np.array([best[example_id][1] for example_id in ids], dtype=object)},
    )
    standard = standard_systems(
        score_matrix(scores),
        domains=["legal"],
        models=["general-7b", "legal-expert"],
        baseline="general-7b",
        experts={},
    )
    summary = summarise(
        scores, ALL_METRICS, run.manifest(), run.telemetry(), run.answers_table(), systems=[*standard, oracle]
    )
    value = summary.value("best", "legal", "rouge_l")
    assert value is not None
    assert value.value == pytest.approx(sum(number for number, _ in best.values()) / len(best))
    assert [item.system_a for item in summary.comparisons] == ["best"] * len(summary.domain_metrics["legal"])


def test_two_scores_for_one_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="two scores"):
        score_matrix([*scores_of([1.0]), *scores_of([0.0])])


def test_a_model_named_like_a_policy_keeps_apart_from_it() -> None:
    matrix = score_matrix(scores_of([1.0, 0.0], model="baseline"))
    systems = standard_systems(matrix, domains=["d"], models=["baseline"], baseline="baseline", experts={})
    assert [system.name for system in systems] == ["baseline", "model:baseline"]
