"""A user's own grader: a class beside the experiment file, named `module:Class`.

The class follows `moe_ray.scoring.score.Grader`: it is made with its settings as keyword arguments, has `metrics`, and
grades one example at a time with `grade`, or many at once with `grade_many`. What it does wrong on one example leaves
that example unscored; what it returns in another shape ends the grading.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray.domains.example import Example
from moe_ray.domains.loading import importable
from moe_ray.domains.registry import import_object
from moe_ray.errors import ConfigError, first_line
from moe_ray.scoring.samples import Item, UnscorableError, unscored
from moe_ray.scoring.score import BatchGrader, Grader, Metric, Score
from moe_ray.store.answers import Answer

PROTOCOL = "see moe_ray.scoring.score.Grader and docs/how-to/write-a-grader.md"


def make_own_grader(spec: str, settings: Mapping[str, Any], base_dir: Path, *, where: str) -> "OwnGrader":
    """Make the grader `module:Class`, whose module is installed or lies in `base_dir`.

    Raises `ConfigError` for a name that is not a grader class, for settings that it does not take, and for an instance
    without metrics.
    """
    with importable(base_dir):
        kind = import_object(spec, where=where)
        if not isinstance(kind, type) or not callable(getattr(kind, "grade", None)):
            raise ConfigError(
                f"{spec} is not a grader: it must be a class with metrics and grade(example, model, answers)",
                where=where,
                remedy=PROTOCOL,
            )
        try:
            made = kind(**settings)
        except Exception as error:
            # The user's own code raises anything; the cause is kept.
            given = ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "no settings"
            raise ConfigError(
                f"{spec} cannot be made with {given}: {type(error).__name__}: {first_line(error)}",
                where=f"{where}.settings",
                remedy="give the settings that its constructor takes as keyword arguments",
            ) from error
    return OwnGrader(spec, made, where=where)


class OwnGrader:
    """Wraps an instance of a user's class: checks its metrics, and what it returns. It grades in batches if it can."""

    def __init__(self, spec: str, grader: Grader, *, where: str) -> None:
        self._spec, self._grader, self._where = spec, grader, where
        metrics = getattr(grader, "metrics", None)
        if not isinstance(metrics, Sequence) or not metrics or not all(isinstance(one, Metric) for one in metrics):
            raise ConfigError(
                f"{spec} has no metrics: it must have a tuple of moe_ray.scoring.score.Metric as `metrics`",
                where=where,
                remedy=PROTOCOL,
            )
        self.metrics: tuple[Metric, ...] = tuple(metrics)
        for metric in self.metrics:
            if not metric.higher_is_better and metric.worst == 0:
                raise ConfigError(
                    f"{spec}: lower is better for {metric.name}, so that worst=0 would reward failed answers",
                    where=where,
                    remedy="set worst to the largest value of the metric, or to None if there is none",
                )

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return what the user's grader returns, or unscored scores with its error; see `Grader.grade`."""
        try:
            scores = self._grader.grade(example, model, answers)
        except Exception as error:  # noqa: BLE001  (the user's code: the score carries what it raised)
            return self._failed(example, model, error)
        return self._checked(scores, example, model)

    def grade_many(self, items: Sequence[Item]) -> list[list[Score]]:
        """Grade all at once if the user's grader can, else one by one; see `BatchGrader.grade_many`."""
        if not isinstance(self._grader, BatchGrader):
            return [self.grade(*item) for item in items]
        try:
            rows = self._grader.grade_many(items)
        except Exception:  # noqa: BLE001  (one example may be at fault: it alone stays unscored)
            return [self.grade(*item) for item in items]
        if not isinstance(rows, Sequence) or len(rows) != len(items):
            raise self._wrong(f"grade_many returned {_size(rows)} for {len(items)} examples")
        return [self._checked(row, item[0], item[1]) for row, item in zip(rows, items, strict=True)]

    def _failed(self, example: Example, model: str, error: Exception) -> list[Score]:
        reason = f"{self._spec} failed: {type(error).__name__}: {first_line(error)}"
        failed = isinstance(error, UnscorableError) and error.failed
        why = str(error) if isinstance(error, UnscorableError) else reason
        return unscored(example, model, self.metrics, UnscorableError(why, failed=failed))

    def _checked(self, scores: object, example: Example, model: str) -> list[Score]:
        names = [metric.name for metric in self.metrics]
        if not isinstance(scores, Sequence) or not all(isinstance(one, Score) for one in scores):
            raise self._wrong(f"grade returned {_size(scores)}, not a list of Score, on example {example.id!r}")
        found = list(scores)
        if [one.metric for one in found] != names:
            raise self._wrong(f"grade returned scores of {[one.metric for one in found]}, not of {names}")
        place = (model, example.domain, example.id)
        if any((one.model, one.domain, one.example_id) != place for one in found):
            raise self._wrong(f"grade returned scores of another model, domain or example than {place}")
        if any(not isinstance(one.value, int | float | None) for one in found):
            raise self._wrong(f"grade returned a value that is not a number on example {example.id!r}")
        return found

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self._spec}: {what}", where=self._where, remedy=PROTOCOL)


def _size(value: object) -> str:
    return f"{len(value)} items" if isinstance(value, Sequence) else f"a {type(value).__name__}"
