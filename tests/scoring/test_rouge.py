import random
import subprocess
import sys
from collections.abc import Sequence

import pytest
from rouge_score.rouge_scorer import RougeScorer

from moe_ray.scoring import rouge
from moe_ray.scoring.rouge import RougeLGrader, f_measure, longest_common_subsequence

from .answering import decision_example, example, generated


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


@pytest.mark.parametrize("reference", AWKWARD_TEXTS, ids=lambda text: text[:12])
def test_awkward_texts_have_the_packages_measure_too(reference: str) -> None:
    scorer, grader = RougeScorer(["rougeL"], use_stemmer=False), RougeLGrader()
    for answer in (*AWKWARD_TEXTS, ""):
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        assert grader.measure(example(reference=reference), answer)[0] == pytest.approx(expected, abs=1e-12)


def test_grading_does_not_wait_for_the_stemmers_packages() -> None:
    code = (
        "import sys\nfrom moe_ray.scoring.rouge import rouge_tokens\nassert rouge_tokens('A b') == ['a', 'b']\n"
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
    monkeypatch.setattr(rouge, "MAX_WORD_PAIRS", 12)
    graded = [
        RougeLGrader().grade(example(), "m", [generated(text)])[0] for text in ("the cat sat on", "the cat sat on it")
    ]
    assert [score.value is None for score in graded] == [False, True]
    assert graded[1].reason == "5 words, which is too many to compare with the reference's 3"
