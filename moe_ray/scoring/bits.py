"""Bits per byte: how well a model predicts the reference, independent of its tokenizer."""

import json
import math
from collections.abc import Sequence

from moe_ray.domains.example import Example
from moe_ray.fingerprint import fingerprint
from moe_ray.scoring.samples import UnscorableError, score, unscored, usable_likelihoods
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer


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
