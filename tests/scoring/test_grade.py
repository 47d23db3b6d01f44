import time
from collections.abc import Mapping, Sequence

import pytest

from moe_ray.domains.example import Example
from moe_ray.errors import ConfigError, SandboxError
from moe_ray.scoring import grade
from moe_ray.scoring.decisions import DecisionGrader, LikelihoodDecisionGrader
from moe_ray.scoring.grade import DomainWork, grade_domain, merge_metrics
from moe_ray.scoring.references import BitsPerByteGrader, RougeLGrader
from moe_ray.scoring.score import Grader, Metric, Score
from moe_ray.store.answers import Answer

from .answering import decision_example, example, generated, measured

BIO = [decision_example("yes", f"b{number}", domain="bio") for number in range(4)]
LAW = [example(f"l{number}", domain="law") for number in range(3)]
EXAMPLES = {"bio": BIO, "law": LAW}
Examples = Mapping[str, Sequence[Example]]
Graders = Mapping[str, Sequence[Grader]]
ASSIGNMENTS = {"bio": ["base", "bio-expert"], "law": ["base", "law-expert"]}


def grade_all(examples: Examples, graders: Graders, answers: Sequence[Answer]) -> list[Score]:
    """The scores of all domains, whose answers lie in one list."""
    works = [
        DomainWork(
            examples=members,
            graders=graders[domain],
            models=ASSIGNMENTS[domain],
            answers_of=lambda model, domain=domain: [  # type: ignore[misc]
                answer for answer in answers if (answer.domain, answer.model) == (domain, model)
            ],
        )
        for domain, members in examples.items()
    ]
    return [score for work in works for score in grade_domain(work)]


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
    scores, metrics = grade_all(EXAMPLES, graders, answers), merge_metrics(graders)
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
    scores = grade_all({"law": LAW}, {"law": [grader]}, answers)
    assert grader.num_calls == 1
    assert [score.value for score in scores] == [0.0, 2.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("max_items", [1, 4, 5, 1000])
def test_scores_are_the_same_however_many_items_a_grader_gets_at_a_time(
    max_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = CountingGrader()
    graders: dict[str, list[Grader]] = {"bio": [DecisionGrader(), counting]}
    answers = [generated(text, of=one, model="base") for one, text in zip(BIO, ("yes", "no", "?", "yes"), strict=True)]
    whole = grade_all({"bio": BIO}, graders, answers)
    monkeypatch.setattr(grade, "MAX_ITEMS", max_items)
    parts = grade_all({"bio": BIO}, graders, answers)
    assert sorted(map(str, parts)) == sorted(map(str, whole))
    assert counting.num_calls == 1 + -(-8 // max_items)


def test_the_answers_of_one_model_are_asked_for_when_they_are_graded() -> None:
    """One model's answers are in memory at a time, whatever the number of models."""
    asked: list[str] = []

    def answers_of(model: str) -> list[Answer]:
        asked.append(model)
        return []

    work = DomainWork(examples=BIO, graders=[RougeLGrader()], models=["base", "other"], answers_of=answers_of)
    assert asked == []
    assert len(list(grade_domain(work))) == 8
    assert asked == ["base", "other"]


class WrongGrader(CountingGrader):
    """Gives a score too few."""

    def grade_many(self, items: Sequence[tuple[Example, str, Sequence[Answer]]]) -> list[list[Score]]:
        return [[] for _ in items]


def test_a_grader_that_gives_other_scores_than_its_metrics_leaves_them_unscored_and_says_so() -> None:
    scores = grade_all({"law": LAW}, {"law": [WrongGrader()]}, [])
    assert len(scores) == 2 * len(LAW)
    assert {score.reason for score in scores} == {"WrongGrader gave other scores than ['num_answers']"}


class RaisingGrader:
    """Raises on an answer that holds the word boom; else gives the number of answers."""

    metrics: tuple[Metric, ...] = (Metric(name="first", definition="f"), Metric(name="second", definition="s"))

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.num_graded = 0

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        self.num_graded += 1
        if any("boom" in (answer.text or "") for answer in answers):
            raise self.error
        return [
            Score(model=model, domain=example.domain, example_id=example.id, metric=metric.name, value=1.0)
            for metric in self.metrics
        ]


class RaisingBatchGrader(RaisingGrader):
    """The same, many at a time."""

    def grade_many(self, items: Sequence[tuple[Example, str, Sequence[Answer]]]) -> list[list[Score]]:
        return [self.grade(*item) for item in items]


BOOM = [generated("boom" if number in (1, 2) else "fine", of=one, model="base") for number, one in enumerate(BIO)]


@pytest.mark.parametrize("kind", [RaisingGrader, RaisingBatchGrader])
def test_a_grader_that_raises_on_an_answer_costs_that_answers_scores_alone(kind: type[RaisingGrader]) -> None:
    grader = kind(KeyError("no such word"))
    scores = grade_all({"bio": BIO}, {"bio": [grader, DecisionGrader()]}, BOOM)
    raised = {(score.example_id, score.metric): score for score in scores if score.model == "base" and score.reason}
    assert [key for key, score in raised.items() if score.metric in ("first", "second")] == [
        (example_id, metric) for example_id in ("b1", "b2") for metric in ("first", "second")
    ]
    assert raised["b1", "first"].reason == f"{kind.__name__} raised KeyError: 'no such word'"
    assert raised["b1", "first"].value is None
    assert not raised["b1", "first"].failed
    assert len(scores) == 2 * len(BIO) * 5


def test_a_batch_of_many_is_not_graded_one_by_one_for_one_that_raises() -> None:
    examples = [decision_example("yes", f"b{number}", domain="bio") for number in range(256)]
    answers = [
        generated("boom" if number == 77 else "fine", of=one, model="base") for number, one in enumerate(examples)
    ]
    grader = RaisingBatchGrader(ValueError("no"))
    scores = grade_all({"bio": examples}, {"bio": [grader]}, answers)
    assert sum(score.value is None for score in scores) == 2
    assert grader.num_graded < 4 * len(examples)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SandboxError("no box"), MemoryError()], ids=repr)
def test_what_is_not_the_answers_fault_ends_grading(error: BaseException) -> None:
    with pytest.raises(type(error)):
        grade_all({"bio": BIO}, {"bio": [RaisingGrader(error)]}, BOOM)


def test_one_metric_with_two_definitions_is_refused() -> None:
    other = CountingGrader()
    other.metrics = (Metric(name="num_answers", definition="something else"),)
    with pytest.raises(ConfigError, match="num_answers has another definition"):
        merge_metrics({"bio": [CountingGrader()], "law": [other]})


def time_of(num_examples: int) -> float:
    examples = [decision_example("yes", str(number), domain="bio") for number in range(num_examples)]
    answers = [generated("yes", of=one, model=model) for one in examples for model in ("base", "bio-expert")]
    started = time.process_time()
    grade_all({"bio": examples}, {"bio": [DecisionGrader()]}, answers)
    return time.process_time() - started


def test_four_times_the_examples_take_far_less_than_sixteen_times_the_time() -> None:
    time_of(200)
    small = min(time_of(1000) for _ in range(3))
    large = min(time_of(4000) for _ in range(3))
    assert large < 9 * small


def test_a_model_that_was_asked_some_examples_is_graded_on_those_alone() -> None:
    answers = {"base": [generated("yes", of=one, model="base") for one in BIO], "other": []}
    work = DomainWork(
        examples=BIO,
        graders=[DecisionGrader()],
        models=["base", "other"],
        answers_of=answers.__getitem__,
        asked={"other": {"b2", "elsewhere"}},
    )
    graded = {(score.model, score.example_id) for score in grade_domain(work)}
    assert graded == {("base", one.id) for one in BIO} | {("other", "b2")}
