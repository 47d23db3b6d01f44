import time
from collections.abc import Sequence

import pytest

from moe_ray.domains.example import Example
from moe_ray.errors import ConfigError
from moe_ray.scoring.bits import BitsPerByteGrader
from moe_ray.scoring.decisions import DecisionGrader, LikelihoodDecisionGrader
from moe_ray.scoring.grade import grade_run
from moe_ray.scoring.rouge import RougeLGrader
from moe_ray.scoring.score import Grader, Metric, Score
from moe_ray.store.answers import Answer

from .answering import decision_example, example, generated, measured

BIO = [decision_example("yes", f"b{number}", domain="bio") for number in range(4)]
LAW = [example(f"l{number}", domain="law") for number in range(3)]
EXAMPLES = {"bio": BIO, "law": LAW}
ASSIGNMENTS = {"bio": ["base", "bio-expert"], "law": ["base", "law-expert"]}


def test_every_model_example_and_metric_gets_exactly_one_score() -> None:
    graders: dict[str, list[Grader]] = {
        "bio": [DecisionGrader(), LikelihoodDecisionGrader(), BitsPerByteGrader()],
        "law": [RougeLGrader()],
    }
    answers = [
        generated("yes", of=BIO[0], model="base"),
        measured([-1.0, -2.0, -3.0, -4.0], ["a", "b", "c", "d"], of=BIO[0], model="base"),
        generated("no", of=BIO[1], model="bio-expert"),
        generated("The cat sat.", of=LAW[2], model="law-expert"),
        generated("yes", of=BIO[0], model="law-expert"),
        generated("yes", of=decision_example("yes", "unknown", domain="bio"), model="base"),
        generated("yes", of=example("x", domain="elsewhere"), model="base"),
    ]
    scores, metrics = grade_run(EXAMPLES, graders, ASSIGNMENTS, answers)
    names = ["accuracy", "macro_f1", "decision_parsed", "accuracy_loglik", "macro_f1_loglik", "bits_per_byte"]
    assert list(metrics) == [*names, "rouge_l"]
    expected = {
        (model, domain, one.id, metric)
        for domain, metric_names in (("bio", names), ("law", ["rouge_l"]))
        for model in ASSIGNMENTS[domain]
        for one in EXAMPLES[domain]
        for metric in metric_names
    }
    keys = [(score.model, score.domain, score.example_id, score.metric) for score in scores]
    assert len(keys) == len(set(keys))
    assert set(keys) == expected
    scored = {key: score.value for key, score in zip(keys, scores, strict=True) if score.value is not None}
    assert len(scored) == 6 + 3 + 1
    assert scored["law-expert", "law", "l2", "rouge_l"] == 1.0
    assert scored["bio-expert", "bio", "b1", "accuracy"] == 0.0
    assert {score.reason for score in scores if score.value is None} == {"no answer"}


class CountingGrader:
    """A batch grader whose `grade` must not be used."""

    metrics: tuple[Metric, ...] = (Metric(name="num_answers", definition="answers there are"),)

    def __init__(self) -> None:
        self.num_calls = 0

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        raise AssertionError

    def grade_many(self, items: Sequence[tuple[Example, str, Sequence[Answer]]]) -> list[list[Score]]:
        self.num_calls += 1
        return [
            [Score(model=model, domain=one.domain, example_id=one.id, metric="num_answers", value=float(len(answers)))]
            for one, model, answers in items
        ]


def test_a_batch_grader_gets_a_domains_items_at_once() -> None:
    grader = CountingGrader()
    answers = [generated("a", of=LAW[1], model="base"), generated("b", of=LAW[1], model="base", sample=1)]
    scores, _ = grade_run({"law": LAW}, {"law": [grader]}, ASSIGNMENTS, answers)
    assert grader.num_calls == 1
    assert [score.value for score in scores] == [0.0, 2.0, 0.0, 0.0, 0.0, 0.0]


class WrongGrader(CountingGrader):
    """Gives a score too few."""

    def grade_many(self, items: Sequence[tuple[Example, str, Sequence[Answer]]]) -> list[list[Score]]:
        return [[] for _ in items]


def test_a_grader_that_gives_other_scores_than_its_metrics_is_found_out() -> None:
    with pytest.raises(ValueError, match="WrongGrader gave other scores"):
        grade_run({"law": LAW}, {"law": [WrongGrader()]}, ASSIGNMENTS, [])


def test_one_metric_with_two_definitions_is_refused() -> None:
    other = CountingGrader()
    other.metrics = (Metric(name="num_answers", definition="something else"),)
    with pytest.raises(ConfigError, match="num_answers has another definition"):
        grade_run(EXAMPLES, {"bio": [CountingGrader()], "law": [other]}, ASSIGNMENTS, [])


def time_of(num_examples: int) -> float:
    examples = [decision_example("yes", str(number), domain="bio") for number in range(num_examples)]
    answers = [generated("yes", of=one, model=model) for one in examples for model in ("base", "bio-expert")]
    started = time.process_time()
    grade_run({"bio": examples}, {"bio": [DecisionGrader()]}, ASSIGNMENTS, answers)
    return time.process_time() - started


def test_four_times_the_examples_take_far_less_than_sixteen_times_the_time() -> None:
    time_of(200)
    small = min(time_of(1000) for _ in range(3))
    large = min(time_of(4000) for _ in range(3))
    assert large < 9 * small
