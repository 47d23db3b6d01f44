"""ROUGE-L, completeness, relevance and bits per byte."""

import math
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest
from rouge_score.rouge_scorer import RougeScorer

from moe_ray.scoring import references
from moe_ray.scoring.references import (
    BitsPerByteGrader,
    CompletenessGrader,
    RelevanceGrader,
    RougeLGrader,
    content_words,
    f_measure,
    longest_common_subsequence,
)
from moe_ray.store.answers import Answer

from .answering import decision_example, example, generated, measured

AWKWARD_TEXTS = (
    "word",
    "Word, word; WORD!",
    "don't can't it's",
    "under_scores and-hyphens and/slashes",
    "3.14 is not 3 14 or 314",
    "naïve café Straße",
    "Größe \u4f60\u597d mixed \u0441\u043b\u043e\u0432\u043e",
    "emoji \U0001f600 between",
    "tabs\tand\nlines\r\nand  spaces",
    "a a a a b a a a",
    "b a b a b a",
    "http://example.org/?q=1&r=2",
    "x" * 300,
    " ".join(f"w{number % 7}" for number in range(400)),
    " ".join(f"w{number % 5}" for number in range(350)),
)


def plain_lcs(left: Sequence[str], right: Sequence[str]) -> int:
    """The table of the textbooks."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for row, one in enumerate(left, start=1):
        for column, other in enumerate(right, start=1):
            best = max(table[row - 1][column], table[row][column - 1])
            table[row][column] = table[row - 1][column - 1] + 1 if one == other else best
    return table[-1][-1]


def random_words(rng: random.Random, num_words: int, num_kinds: int) -> list[str]:
    return [f"w{rng.randrange(num_kinds)}" for _ in range(num_words)]


@pytest.mark.parametrize("seed", range(40))
def test_the_fast_subsequence_is_as_long_as_the_plain_one(seed: int) -> None:
    rng = random.Random(seed)
    left = random_words(rng, rng.randrange(0, 90), rng.choice([1, 2, 5, 40]))
    right = random_words(rng, rng.randrange(0, 90), rng.choice([1, 2, 5, 40]))
    assert longest_common_subsequence(left, right) == plain_lcs(left, right)


def test_the_measure_is_that_of_the_rouge_score_package() -> None:
    rng = random.Random(5)
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    grader = RougeLGrader()
    words = ["The", "lease", "leases,", "isn't", "VOID", "(s. 54)", "é", "2,000", "and", "\n"]
    for _ in range(60):
        reference = "x " + " ".join(rng.choices(words, k=rng.randrange(1, 60)))
        answer = " ".join(rng.choices(words, k=rng.randrange(0, 60)))
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        assert grader.measure(example(reference=reference), answer)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("reference", AWKWARD_TEXTS, ids=lambda text: text[:12])
def test_awkward_texts_have_the_packages_measure_too(reference: str) -> None:
    scorer, grader = RougeScorer(["rougeL"], use_stemmer=False), RougeLGrader()
    for answer in (*AWKWARD_TEXTS, ""):
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        assert grader.measure(example(reference=reference), answer)[0] == pytest.approx(expected, abs=1e-12)


def test_grading_does_not_wait_for_the_stemmers_packages() -> None:
    code = (
        "import sys\nfrom moe_ray.scoring.references import rouge_tokens\nassert rouge_tokens('A b') == ['a', 'b']\n"
        "print([name for name in ('nltk', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worked_example() -> None:
    # Common in order: a, c, d; 3 of 4 of the one and 3 of 5 of the other.
    assert f_measure(list("abcd"), list("acxdy")) == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert f_measure(["a"], []) == f_measure(["a"], ["b"]) == 0.0


def test_where_there_are_choices_the_explanation_after_the_decision_counts() -> None:
    grader = RougeLGrader()
    (score,) = grader.grade(decision_example(reference="The cat sat."), "m", [generated("Yes. The cat sat.")])
    assert score.value == 1.0
    (score,) = grader.grade(example(reference="The cat sat."), "m", [generated("Yes. The cat sat.")])
    assert score.value == pytest.approx(2 * (3 / 4) * 1 / (3 / 4 + 1))


def test_samples_are_averaged_and_errors_are_unscored() -> None:
    answers = [generated("The cat sat."), generated("Dogs.", sample=1)]
    (score,) = RougeLGrader(num_samples=2).grade(example(), "m", answers)
    assert score.value == 0.5
    (score,) = RougeLGrader().grade(example(), "m", [generated("", error="too long")])
    assert (score.value, score.reason) == (None, "error: too long")
    (score,) = RougeLGrader().grade(example(), "m", [generated("")])
    assert score.value == 0.0
    (score,) = RougeLGrader().grade(example(reference="…"), "m", [generated("words")])
    assert (score.value, score.reason) == (None, "the reference has no words")


def test_an_answer_beyond_the_bound_on_comparisons_is_unscored_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_WORD_PAIRS", 12)
    graded = [
        RougeLGrader().grade(example(), "m", [generated(text)])[0] for text in ("the cat sat on", "the cat sat on it")
    ]
    assert [score.value is None for score in graded] == [False, True]
    assert graded[1].reason == "5 words, which is too many to compare with the reference's 3"


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


def test_a_uniform_model_of_bytes_takes_eight_bits_a_byte() -> None:
    reference = " na\u00efve \u2014 ja"
    num_bytes = len(reference.encode())
    assert num_bytes > len(reference)
    answer = measured([num_bytes * math.log(1 / 256)], [reference])
    (score,) = BitsPerByteGrader().grade(example(), "m", [answer])
    assert score.value == pytest.approx(8.0)
    assert score.weight == num_bytes


def test_the_reference_is_the_last_continuation_after_the_choices() -> None:
    answer = measured([-1.0, -2.0, -3.0, -4 * math.log(2)], [" yes", " no", " maybe", " abc"])
    (score,) = BitsPerByteGrader().grade(decision_example(), "m", [answer])
    assert score.value == pytest.approx(1.0)


def test_the_weighted_mean_is_all_bits_over_all_bytes() -> None:
    answers = [measured([-10.0], ["ab"]), measured([-1.0], ["abcdefgh"])]
    scores = [BitsPerByteGrader().grade(example(), "m", [answer])[0] for answer in answers]
    total = sum((score.value or 0.0) * score.weight for score in scores) / sum(score.weight for score in scores)
    assert total == pytest.approx(11.0 / math.log(2) / 10)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([], "no answer"),
        ([measured(None, [], error="lost")], "error: lost"),
        ([measured([-1.0, -1.0, -1.0], [" yes", " no", " maybe"])], "no reference was measured"),
        (
            [measured([-1.0, -1.0, -1.0, -math.inf], ["a", "b", "c", "d"])],
            "the reference's log-likelihood is not finite",
        ),
        ([measured([-1.0, -1.0, -1.0, 0.0], ["a", "b", "c", ""])], "the reference is empty"),
    ],
)
def test_what_has_no_value_is_unscored(answers: list[Answer], reason: str) -> None:
    (score,) = BitsPerByteGrader().grade(decision_example(), "m", answers)
    assert (score.value, score.reason) == (None, reason)


def test_fewer_bits_are_better() -> None:
    (metric,) = BitsPerByteGrader().metrics
    assert not metric.higher_is_better
