"""A score: a grader's verdict on one example's answers by one model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from moe_ray.domains.example import Example
from moe_ray.store.answers import Answer

Aggregation = Literal["mean", "macro_f1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One value of one metric, for one model on one example.

    `value` is None when the answer could not be scored (no answer, an error): `reason` then says why. Such a score
    is counted, and is not a zero. `failed` is True where that is the model's own fault (an error, a prompt refused by
    its length): comparisons then count it as the metric's `worst`, so that failing never helps. It is False where
    nothing was computed yet, or where the grader or the example is at fault. `weight` is the example's share in a
    weighted mean (bytes, for bits per byte). `label` and `gold` are set where the metric counts labels (macro-F1,
    confusion).
    """

    model: str
    domain: str
    example_id: str
    metric: str
    value: float | None
    reason: str | None = None
    failed: bool = False
    weight: float = 1.0
    label: str | None = None
    gold: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How the scores of one name are read: their merge, their direction, and one line that defines them.

    `worst` is what a failed answer counts as where systems are compared; None where the metric has no worst value
    (bits per byte), so that a failure cannot be counted.
    """

    name: str
    definition: str
    aggregation: Aggregation = "mean"
    higher_is_better: bool = True
    binary: bool = False
    worst: float | None = 0.0
    unit: str = ""


class Grader(Protocol):
    """Turns the answers of one model to one example into scores, one for each of its metrics."""

    metrics: tuple[Metric, ...]

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Grade `answers` (all samples and likelihoods of one example by one model; maybe none).

        Returns exactly one score for each of `metrics`, in their order; unscored ones carry a reason.
        """
        ...


@runtime_checkable
class BatchGrader(Grader, Protocol):
    """A grader that is much faster when it gets many examples at once."""

    def grade_many(self, items: Sequence[tuple[Example, str, Sequence[Answer]]]) -> list[list[Score]]:
        """Grade (example, model, answers) items; returns for each, in order, what `grade` would."""
        ...


@runtime_checkable
class ExampleChecker(Grader, Protocol):
    """A grader that can tell beforehand that it would grade nothing right."""

    def check_examples(self, examples: Sequence[Example]) -> None:
        """Raise a `UserError` when the examples of a domain cannot be graded, before any model answers them."""
        ...
