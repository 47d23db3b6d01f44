"""Progress of a training, as its callers see it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far a training is. `macro_f1` is of the validation texts, at the end of an epoch; else None."""

    step: int
    num_steps: int
    epoch: float
    loss: float | None = None
    macro_f1: float | None = None


Report = Callable[[TrainingProgress], None]
