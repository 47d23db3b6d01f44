"""Progress reports of trainings."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Progress of a training. `macro_f1` is measured on the validation texts at the end of an epoch; else None.

    `name` identifies the training where several run at once. `loss` is a mean since the last report.
    """

    step: int
    num_steps: int
    epoch: float
    loss: float | None = None
    macro_f1: float | None = None
    name: str = ""


Report = Callable[[TrainingProgress], None]
