"""Graders that compare an answer with a text: ROUGE-L, content words, and the bits that the reference costs.

A content word is a word (letters, digits, inner apostrophes; case folded; a possessive 's cut off) that is not one of
`FUNCTION_WORDS`. Words are counted once however often they occur, and are not stemmed. Completeness and relevance are
recalls: they say nothing about what else an answer says, and a repeated question is perfectly relevant. Read them
together with ROUGE-L, whose precision punishes padding.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence

from moe_ray.domains.example import Example
from moe_ray.fingerprint import fingerprint
from moe_ray.scoring.decisions import after_decision
from moe_ray.scoring.samples import TextGrader, UnscorableError, score, unscored, usable_likelihoods
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer

# About a second of work: a reference of 1,000 words leaves room for an answer of ten million.
MAX_WORD_PAIRS = 10**10
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_WORDS_WITHOUT_CONTENT = """
a about above after again against all also although am an and any anyone anything are aren't as at
be because been before being below between both but by
can can't cannot could couldn't
did didn't do does doesn't doing don't done down during
each either else ever every
few for from further
get gets got
had hadn't has hasn't have haven't having he he'd he'll her here hers herself him himself his how however
i i'd i'll i'm i've if in into is isn't it it'd it'll its itself
just
let like
many may me might mine more most much must my myself
neither no nor not now
of off on once one only or other others our ours ourselves out over own
per
quite
rather really
same shall she she'd she'll should shouldn't since so some someone something still such
than that that'd the their theirs them themselves then there therefore these they they'd they'll they're they've
thing things this those though through thus to too
under until up upon us
very
was wasn't we we'd we'll we're we've were weren't what whatever when where whether which while who whom whose why
will with within without won't would wouldn't
yes yet you you'd you'll you're you've your yours yourself
"""
FUNCTION_WORDS = frozenset(_WORDS_WITHOUT_CONTENT.split())


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


def content_words(text: str) -> frozenset[str]:
    """Return the distinct content words of `text`."""
    words = (word.removesuffix("'s") for word in _WORD.findall(text.replace("\u2019", "'").casefold()))
    return frozenset(word for word in words if word not in FUNCTION_WORDS)


class CompletenessGrader(TextGrader):
    """Recall of the reference's content words."""

    metrics: tuple[Metric, ...] = (
        Metric(
            name="completeness",
            definition="share of the reference's distinct content words that the answer uses (unstemmed recall)",
        ),
    )

    def measure(self, example: Example, text: str) -> Sequence[float]:
        """Return the share of the reference's content words in `text`."""
        return (_recall(example.reference, text, "reference"),)


class RelevanceGrader(TextGrader):
    """Recall of the question's content words."""

    metrics: tuple[Metric, ...] = (
        Metric(
            name="relevance",
            definition="share of the question's distinct content words that the answer uses (unstemmed recall)",
        ),
    )

    def measure(self, example: Example, text: str) -> Sequence[float]:
        """Return the share of the question's content words in `text`; `grading` holds the question."""
        question = example.grading.get("question")
        if not isinstance(question, str):
            raise UnscorableError("the example has no question in its grading")
        return (_recall(question, text, "question"),)


def _recall(wanted: str, text: str, name: str) -> float:
    words = content_words(wanted)
    if not words:
        raise UnscorableError(f"the {name} has no content words")
    return len(words & content_words(text)) / len(words)


class BitsPerByteGrader:
    """-log2 P(reference | prompt) / bytes of the reference, in UTF-8, as it was spelled after the prompt.

    A score's weight is its bytes, so that the weighted mean is all bits over all bytes. Its gold is a fingerprint of
    the text that was measured: prompt styles may spell a reference differently, and only like is compared with like.
    """

    metrics: tuple[Metric, ...] = (
        Metric(
            name="bits_per_byte",
            definition="-log2 of the reference's probability after the prompt, per UTF-8 byte; mean weighted by bytes",
            higher_is_better=False,
            worst=None,
            unit="bits/byte",
        ),
    )

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return the score of bits_per_byte; see `Grader.grade`."""
        (metric,) = self.metrics
        try:
            loglikelihood, reference = _reference_likelihood(example, usable_likelihoods(answers))
        except UnscorableError as error:
            return unscored(example, model, self.metrics, error)
        num_bytes = len(reference.encode())
        value = -loglikelihood / math.log(2) / num_bytes
        return [score(example, model, metric, value, weight=float(num_bytes), gold=fingerprint(reference))]


def _reference_likelihood(example: Example, answer: Answer) -> tuple[float, str]:
    """Return the reference's log-likelihood in nats, and the reference. It comes last, after the choices."""
    continuations = json.loads(answer.settings)["continuations"]
    choices = example.grading.get("choices")
    if len(continuations) == (len(choices) if isinstance(choices, list) else 0):
        raise UnscorableError("no reference was measured")
    loglikelihood = (answer.loglikelihoods or [])[-1]
    if loglikelihood is None:
        raise UnscorableError("the reference does not fit the model's context after the prompt", failed=True)
    if not math.isfinite(loglikelihood):
        raise UnscorableError("the reference's log-likelihood is not finite", failed=True)
    if not continuations[-1]:
        raise UnscorableError("the reference is empty")
    return loglikelihood, str(continuations[-1])
