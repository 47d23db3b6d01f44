import math

import pytest

from moe_ray.scoring.decisions import (
    UNPARSED,
    DecisionGrader,
    LikelihoodDecisionGrader,
    after_decision,
    parse_decision,
)
from moe_ray.scoring.score import Grader, Score
from moe_ray.store.answers import Answer

from .answering import decision_example, example, generated, measured

CHOICES = ("yes", "no", "maybe")


def grade(grader: Grader, *answers: Answer, gold: str = "yes") -> dict[str, Score]:
    return {score.metric: score for score in grader.grade(decision_example(gold), "m", answers)}


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        ("Yes, it does.", "yes"),
        (" no", "no"),
        ("**MAYBE**: it depends; yes or no.", "maybe"),
        ("The answer is no. Yes would be wrong.", "no"),
        ("Answer:\n\nyes", "yes"),
        ("I cannot say; nothing is known; not now; noyes, yesterday.", None),
        ("", None),
    ],
)
def test_the_first_whole_decision_word_counts(text: str, decision: str | None) -> None:
    assert parse_decision(text, CHOICES) == decision


def test_a_longer_choice_is_not_read_as_a_shorter_one() -> None:
    assert parse_decision("Not guilty, clearly.", ("not", "guilty", "not guilty")) == "not guilty"
    assert parse_decision("a C++ program", ("C", "C++")) == "C++"


@pytest.mark.parametrize(
    ("text", "choices", "decision"),
    [
        ("BİLLİNG", ("billing", "delivery"), "billing"),
        ("b\N{LATIN SMALL LETTER DOTLESS I}ll\N{LATIN SMALL LETTER DOTLESS I}ng", ("billing", "delivery"), "billing"),
        ("\N{KELVIN SIGN}", ("k", "m"), "k"),
        ("Ha\N{LATIN SMALL LETTER LONG S}t", ("hast", "hat"), "hast"),
        ("STRASSE, or straße", ("straße", "weg"), "straße"),
        ("YES \ud800", CHOICES, "yes"),
    ],
)
def test_letters_that_match_without_folding_alike_name_their_choice(
    text: str, choices: tuple[str, ...], decision: str
) -> None:
    assert parse_decision(text, choices) == decision


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Yes, it does.", "it does."),
        ("**No.** It does not.", "It does not."),
        ("The answer is: maybe - it depends.", "it depends."),
        ("Answer: yes\n\nIt does.", "It does."),
        ("It does, yes.", "It does, yes."),
        ("Nobody knows.", "Nobody knows."),
        ("yes", ""),
    ],
)
def test_a_leading_decision_is_cut_off_and_nothing_else(text: str, rest: str) -> None:
    assert after_decision(text, CHOICES) == rest


def test_a_right_and_a_wrong_decision() -> None:
    right = grade(DecisionGrader(), generated("Yes."))
    assert {name: score.value for name, score in right.items()} == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "decision_parsed": 1.0,
    }
    wrong = grade(DecisionGrader(), generated("No."))
    assert (wrong["accuracy"].value, wrong["decision_parsed"].value) == (0.0, 1.0)
    assert (wrong["macro_f1"].label, wrong["macro_f1"].gold) == ("no", "yes")


def test_an_unread_answer_is_a_failure_of_the_model_and_counted() -> None:
    scores = grade(DecisionGrader(), generated("Who knows?"))
    assert scores["decision_parsed"].value == 0.0
    for metric in ("accuracy", "macro_f1"):
        found = scores[metric]
        assert (found.value, found.failed, found.reason) == (None, True, "no choice could be read")
        assert (found.label, found.gold) == (UNPARSED, "yes")


def test_beside_other_samples_an_unread_one_is_wrong() -> None:
    scores = grade(DecisionGrader(num_samples=2), generated("?"), generated("yes", sample=1))
    assert (scores["accuracy"].value, scores["accuracy"].failed) == (0.5, False)
    assert (scores["macro_f1"].value, scores["macro_f1"].failed) == (None, True)


def test_an_error_or_no_answer_is_unscored_and_no_zero() -> None:
    for answers, reason in [((), "no answer"), ((generated("", error="too long"),), "error: too long")]:
        scores = grade(DecisionGrader(), *answers)
        assert [(score.value, score.reason) for score in scores.values()] == [(None, reason)] * 3


def test_with_samples_the_share_of_right_ones_counts_and_the_metric_is_not_binary() -> None:
    texts = ["no", "yes", "yes", "?"]
    answers = [generated(text, sample=index) for index, text in enumerate(texts)]
    grader = DecisionGrader(num_samples=4)
    scores = grade(grader, *answers[::-1])
    assert scores["accuracy"].value == 0.5
    assert scores["decision_parsed"].value == 0.75
    assert scores["macro_f1"].label == "no"
    assert not any(metric.binary for metric in grader.metrics)
    assert [metric.binary for metric in DecisionGrader().metrics] == [True, False, True]


def test_a_mean_over_fewer_samples_than_asked_says_so() -> None:
    answers = [generated("yes"), generated("", sample=1, error="lost")]
    scores = grade(DecisionGrader(num_samples=2), *answers)
    assert scores["accuracy"].value == 1.0
    assert scores["accuracy"].detail == "1 of 2 samples"


@pytest.mark.parametrize(
    ("loglikelihoods", "label"),
    [([-3.0, -1.0, -2.0, -90.0], "no"), ([-1.0, -1.0, -2.0], "yes"), ([-math.inf, -math.inf, -5.0], "maybe")],
)
def test_the_likeliest_choice_is_the_label_and_of_equals_the_first(loglikelihoods: list[float], label: str) -> None:
    continuations = [" yes", " no", " maybe", " long"][: len(loglikelihoods)]
    scores = grade(LikelihoodDecisionGrader(), measured(loglikelihoods, continuations), gold="no")
    assert scores["macro_f1_loglik"].label == label
    assert scores["accuracy_loglik"].value == float(label == "no")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((), "no answer"),
        ((generated("yes"),), "no answer"),
        ((measured(None, [], error="out of memory"),), "error: out of memory"),
        ((measured([-1.0], [" yes"]),), "1 log-likelihoods for 3 choices"),
        ((measured([-1.0, math.nan, -1.0], [" yes"] * 3),), "a log-likelihood is not a number"),
    ],
)
def test_likelihoods_that_cannot_decide_are_unscored(answers: tuple[Answer, ...], reason: str) -> None:
    scores = grade(LikelihoodDecisionGrader(), *answers)
    assert [(score.value, score.reason) for score in scores.values()] == [(None, reason)] * 2


def test_an_example_without_a_label_is_unscored() -> None:
    for grader in (DecisionGrader(), LikelihoodDecisionGrader()):
        scores = grader.grade(example(), "m", [generated("yes"), measured([-1.0], ["x"])])
        assert {score.value for score in scores} == {None}
