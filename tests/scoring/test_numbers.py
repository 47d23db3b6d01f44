"""The grader of final numbers."""

import pytest

from moe_ray.scoring.numbers import FinalNumberGrader
from tests.scoring.answering import example, generated

GOLD = example(number="72", reference="#### 72")


def values(*texts: str | None) -> list[float | None]:
    answers = [generated(text, sample=at, of=GOLD) for at, text in enumerate(texts)]
    return [score.value for score in FinalNumberGrader(len(texts)).grade(GOLD, "m", answers)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48 and 24 are\n#### 72", [1.0, 1.0]),
        ("#### 72.00", [1.0, 1.0]),
        ("#### $72\n#### 71", [0.0, 1.0]),
        ("72 pens, of 80", [0.0, 1.0]),
        ("seventy-two", [None, 0.0]),
        ("", [None, 0.0]),
    ],
)
def test_only_exactly_the_gold_number_counts_and_no_number_is_unscored(text: str, expected: list[float | None]) -> None:
    assert values(text) == expected


def test_several_samples_give_their_mean() -> None:
    assert values("#### 72", "#### 7", "none", "72") == [0.5, 0.75]


def test_an_answer_or_an_example_without_what_is_needed_is_unscored_and_no_zero() -> None:
    assert values(None) == [None, None]
    scores = FinalNumberGrader().grade(example(), "m", [generated("#### 72")])
    assert [(score.value, score.reason) for score in scores] == [(None, "the example has no number")] * 2


@pytest.mark.parametrize("digits", ["1" * 40, "9" * 100], ids=["40 digits", "100 digits"])
def test_a_long_negative_number_keeps_all_its_digits(digits: str) -> None:
    (score, _) = FinalNumberGrader().grade(example(number=f"-{digits}"), "m", [generated(f"#### -{digits}")])
    other, _ = FinalNumberGrader().grade(example(number=f"-{digits}"), "m", [generated(f"#### -{digits[:-1]}8")])
    assert (score.value, other.value) == (1.0, 0.0)
