import pytest

from moe_ray.scoring.coverage import CompletenessGrader, RelevanceGrader, content_words

from .answering import example, generated


def test_content_words_are_what_is_left_without_function_words_case_and_possessives() -> None:
    text = "The landlord\u2019s Notice isn't valid; it's 30 days' notice_period, she'd said."
    assert content_words(text) == {"landlord", "notice", "valid", "30", "days", "period", "said"}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Written notice of thirty days is required.", 4 / 4),
        ("REQUIRED: notice. Notice!", 2 / 4),
        ("The of and is", 0.0),
        ("", 0.0),
    ],
)
def test_completeness_is_the_recall_of_the_references_content_words(answer: str, value: float) -> None:
    # Content words: notice, thirty, days, required.
    asked = example(reference="A notice of thirty days is required, the notice being for days.")
    (score,) = CompletenessGrader().grade(asked, "m", [generated(answer)])
    assert score.value == pytest.approx(value)


def test_relevance_is_the_recall_of_the_questions_content_words() -> None:
    asked = example(question="Can my landlord keep the deposit?", reference="x")
    (score,) = RelevanceGrader().grade(asked, "m", [generated("A landlord may not withhold it.")])
    assert score.value == pytest.approx(1 / 3)


def test_an_example_that_gives_nothing_to_cover_is_unscored() -> None:
    (score,) = RelevanceGrader().grade(example(), "m", [generated("a")])
    assert (score.value, score.reason) == (None, "the example has no question in its grading")
    (score,) = RelevanceGrader().grade(example(question="What is it?"), "m", [generated("a")])
    assert (score.value, score.reason) == (None, "the question has no content words")
    (score,) = CompletenessGrader().grade(example(reference="It is."), "m", [generated("a")])
    assert (score.value, score.reason) == (None, "the reference has no content words")


def test_no_answer_is_unscored() -> None:
    for grader in (CompletenessGrader(), RelevanceGrader()):
        (score,) = grader.grade(example(question="Why?"), "m", [])
        assert (score.value, score.reason) == (None, "no answer")
