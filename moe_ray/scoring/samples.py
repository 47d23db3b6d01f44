"""Shared parts of graders: separating an example's answers, means over samples, unscored answers."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence

from moe_ray.domains.example import Example
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer

NO_ANSWER = "no answer"
Item = tuple[Example, str, Sequence[Answer]]  # an example, a model, and its answers


class UnscorableError(Exception):
    """An answer, or its example, has no value of a metric. The text is the reason that the score will carry.

    `failed` says that the model is at fault, not the example, the grader or a run that is not finished.
    """

    def __init__(self, reason: str, *, failed: bool = False) -> None:
        super().__init__(reason)
        self.failed = failed


def usable_texts(answers: Sequence[Answer]) -> list[str]:
    """Return the generated texts in the order of their samples, without those that ended in an error.

    Raises `UnscorableError` when none is left (there was no answer, or there were only errors), and when no sample
    holds more than reasoning. Beside other samples, one of reasoning alone is an empty text.
    """
    drawn = sorted((answer for answer in answers if answer.kind == "generate"), key=lambda answer: answer.sample_index)
    given = [answer for answer in drawn if answer.error is None and answer.text is not None]
    if not given:
        raise _unanswered(drawn)
    if all(_only_reasons(answer) for answer in given):
        raise UnscorableError(_why_only_reasoning(given[0]), failed=True)
    return [answer.text or "" for answer in given]


def _only_reasons(answer: Answer) -> bool:
    return answer.reasoning is not None and not (answer.text or "").strip()


def _why_only_reasoning(answer: Answer) -> str:
    if answer.finish_reason != "length":
        return "the model gave its reasoning and no answer"
    limit = json.loads(answer.settings).get("max_new_tokens", "unknown")
    return f"cut at max_new_tokens ({limit}) inside the reasoning: the model gave no answer"


def usable_likelihoods(answers: Sequence[Answer]) -> Answer:
    """Return the answer that holds log-likelihoods; raises `UnscorableError` when there is none without an error."""
    measured = [answer for answer in answers if answer.kind == "likelihood"]
    for answer in measured:
        if answer.error is None and answer.loglikelihoods:
            return answer
    raise _unanswered(measured)


def score(
    example: Example,
    model: str,
    metric: Metric,
    value: float | None,
    *,
    reason: str | None = None,
    failed: bool = False,
    weight: float = 1.0,
    label: str | None = None,
    gold: str | None = None,
    detail: str | None = None,
) -> Score:
    """Return a score of `example`."""
    return Score(
        model=model,
        domain=example.domain,
        example_id=example.id,
        metric=metric.name,
        value=value,
        reason=reason,
        failed=failed,
        weight=weight,
        label=label,
        gold=gold,
        detail=detail,
    )


def unscored(example: Example, model: str, metrics: Sequence[Metric], error: UnscorableError) -> list[Score]:
    """Return one score without a value for each of `metrics`, with the reason that `error` gives.

    Where the metric counts labels it keeps the example's gold one: a failure is a wrong label, not a missing example.
    """
    label = example.grading.get("label")
    gold = label if isinstance(label, str) else None
    return [
        score(
            example,
            model,
            metric,
            None,
            reason=str(error),
            failed=error.failed,
            gold=gold if metric.aggregation == "macro_f1" else None,
        )
        for metric in metrics
    ]


def sample_detail(num_used: int, num_samples: int) -> str | None:
    """Say how many samples a mean stands on when some are missing."""
    return None if num_used >= num_samples else f"{num_used} of {num_samples} samples"


class TextGrader(ABC):
    """A grader that measures one text at a time. With several samples a score is the mean over the samples."""

    metrics: tuple[Metric, ...]

    def __init__(self, num_samples: int = 1) -> None:
        self.num_samples = num_samples

    @abstractmethod
    def measure(self, example: Example, text: str) -> Sequence[float]:
        """Return one value for each of `metrics`; raises `UnscorableError` when the text or the example has none."""

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return one score for each of `metrics`; see `Grader.grade`."""
        try:
            rows = [self.measure(example, text) for text in usable_texts(answers)]
        except UnscorableError as error:
            return unscored(example, model, self.metrics, error)
        detail = sample_detail(len(rows), self.num_samples)
        return [
            score(example, model, metric, sum(values) / len(values), detail=detail)
            for metric, values in zip(self.metrics, zip(*rows, strict=True), strict=True)
        ]


def _unanswered(failed: Sequence[Answer]) -> UnscorableError:
    if not failed:
        return UnscorableError(NO_ANSWER)
    return UnscorableError(f"error: {failed[0].error or 'the answer is empty'}", failed=True)
