"""Completeness and relevance: which of the content words of the reference, and of the question, an answer uses.

A content word is a word (letters, digits, inner apostrophes; case folded; a possessive 's cut off) that is not one of
`FUNCTION_WORDS`. Words are counted once however often they occur, and are not stemmed. Both measures are
recalls: they say nothing about what else an answer says, and a repeated question is perfectly relevant. Read
them together with ROUGE-L, whose precision punishes padding.
"""

import re
from collections.abc import Sequence

from moe_ray.domains.example import Example
from moe_ray.scoring.samples import TextGrader, UnscorableError
from moe_ray.scoring.score import Metric

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
