"""ROUGE-L: how much of the reference's word order an answer keeps."""

from collections import defaultdict
from collections.abc import Sequence

from moe_ray.domains.example import Example
from moe_ray.scoring.decisions import after_decision
from moe_ray.scoring.samples import TextGrader, UnscorableError
from moe_ray.scoring.score import Metric

# About a second of work: a reference of 1,000 words leaves room for an answer of ten million.
MAX_WORD_PAIRS = 10**10


class RougeLGrader(TextGrader):
    """ROUGE-L against the reference, on the tokens of the `rouge-score` package and equal to its `rougeL` F-measure.

    Where an example has choices, the decision that the answer begins with is cut off first: the reference is the
    explanation alone.
    """

    metrics: tuple[Metric, ...] = (
        Metric(
            name="rouge_l",
            definition="ROUGE-L F-measure in [0, 1], rouge-score's tokens, unstemmed; after the leading decision word, "
            "where the task has one",
        ),
    )

    def measure(self, example: Example, text: str) -> Sequence[float]:
        """Return the F-measure of `text` against the example's reference."""
        reference = rouge_tokens(example.reference)
        if not reference:
            raise UnscorableError("the reference has no words")
        choices = example.grading.get("choices")
        explained = after_decision(text, choices) if isinstance(choices, list) and choices else text
        words = rouge_tokens(explained)
        if len(words) * len(reference) > MAX_WORD_PAIRS:
            raise UnscorableError(
                f"{len(words)} words, which is too many to compare with the reference's {len(reference)}"
            )
        return (f_measure(reference, words),)


def rouge_tokens(text: str) -> list[str]:
    """Return the tokens of `text` as the rouge-score package makes them without stemming."""
    # Its other modules bring nltk, scipy.stats and scikit-learn along for the stemmer: two seconds of a short run.
    from rouge_score.tokenize import tokenize

    tokens: list[str] = tokenize(text, None)
    return tokens


def f_measure(reference: Sequence[str], answer: Sequence[str]) -> float:
    """Return the harmonic mean of LCS / answer length and LCS / reference length; 0 when nothing is common."""
    common = longest_common_subsequence(reference, answer)
    if not common:
        return 0.0
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    A row of the usual table differs from step to step by 0 or 1, so that it fits the bits of one integer (Allison and
    Dix 1986, in Hyyrö's form of 2004): one addition a token of `right`, where the table takes len(left) steps.
    """
    positions: defaultdict[str, int] = defaultdict(int)
    for index, token in enumerate(left):
        positions[token] |= 1 << index
    everything = (1 << len(left)) - 1
    row = everything
    for token in right:
        matched = row & positions.get(token, 0)
        row = ((row + matched) | (row - matched)) & everything
    return len(left) - row.bit_count()
