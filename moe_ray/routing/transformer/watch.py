"""Between the epochs of a training: report progress, keep the best weights, stop early."""

import math
from typing import Any

import torch
from transformers import TrainerCallback

from moe_ray.errors import ConfigError
from moe_ray.files import StoredRecord
from moe_ray.progress import Report, TrainingProgress


class EncoderTraining(StoredRecord):
    """All that decided the weights, beside the texts. `label_weights` is empty where all texts weigh the same."""

    base: str
    pretrained: bool
    num_parameters: int
    device: str
    precision: str
    max_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    num_warmup_steps: int
    patience: int
    max_tokens: int
    seed: int
    label_weights: dict[str, float]


class EpochResult(StoredRecord):
    """One pass over the training texts, and how the validation texts fared after it."""

    epoch: int
    num_steps: int
    train_loss: float
    validation_loss: float
    macro_f1: float


class TrainingHistory(StoredRecord):
    """A training from its start to its end; the weights are those after `best_epoch`."""

    settings: EncoderTraining
    epochs: list[EpochResult]
    best_epoch: int
    stopped_early: bool
    train_s: float


PERFECT = 1.0


class EpochWatch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Keeps a copy of the best epoch's weights in memory, and ends the training after `patience` epochs without gain.

    The best epoch is the one with the highest macro-F1 on the validation texts, and of several with the same the one
    with the lowest loss. A higher macro-F1 is a gain, and so is a lower loss at the same macro-F1 below 1: a model that
    still gives every text the same label is learning all the while. Raises `ConfigError` when training diverges.
    """

    def __init__(self, patience: int, report: Report) -> None:
        self.epochs: list[EpochResult] = []
        self._patience = patience
        self._report = report
        self._best: EpochResult | None = None
        self._best_weights: dict[str, torch.Tensor] = {}
        self._last_gain = 0
        self._losses: list[tuple[float, int]] = []
        self._last_logged = 0
        self._last_step = 0

    @property
    def best_epoch(self) -> int:
        return self._best.epoch if self._best else 0

    def restore_best(self, model: Any) -> None:
        """Give `model` the weights that it had after the best epoch."""
        model.load_state_dict(self._best_weights)

    def on_log(self, _args: Any, state: Any, _control: Any, *, logs: dict[str, float], **_: Any) -> None:
        """Report the mean loss since the last log."""
        if "loss" not in logs:  # the log of an evaluation, or of the end
            return
        self._losses.append((logs["loss"], state.global_step - self._last_logged))
        self._last_logged = state.global_step
        self._tell(state, loss=logs["loss"])

    def on_epoch_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Have the rest of the epoch's loss logged, before the evaluation."""
        control.should_log = True

    def on_evaluate(
        self, args: Any, state: Any, control: Any, *, metrics: dict[str, float], model: Any, **_: Any
    ) -> None:
        """Keep the weights if they are the best so far; end the training if nothing was gained for long enough."""
        result = self._result(state, metrics, args.learning_rate)
        self.epochs.append(result)
        self._tell(state, macro_f1=result.macro_f1)
        is_higher = self._best is None or result.macro_f1 > self._best.macro_f1
        is_surer = self._best is not None and _is_surer(result, self._best)
        if is_higher or is_surer:
            self._best = result
            self._best_weights = {name: part.detach().cpu().clone() for name, part in model.state_dict().items()}
        if is_higher or (is_surer and result.macro_f1 < PERFECT):
            self._last_gain = result.epoch
        elif result.epoch - self._last_gain >= self._patience:
            control.should_training_stop = True

    def _result(self, state: Any, metrics: dict[str, float], learning_rate: float) -> EpochResult:
        num_steps = state.global_step - self._last_step
        result = EpochResult(
            epoch=len(self.epochs) + 1,
            num_steps=num_steps,
            train_loss=sum(loss * num for loss, num in self._losses) / num_steps,
            validation_loss=metrics["eval_loss"],
            macro_f1=metrics["eval_macro_f1"],
        )
        self._losses, self._last_step = [], state.global_step
        if not math.isfinite(result.validation_loss):
            raise ConfigError(
                f"the training diverged: after epoch {result.epoch} the loss is not a number",
                where="router.training.learning_rate",
                remedy=f"set a learning rate below {learning_rate:g}",
            )
        return result

    def _tell(self, state: Any, *, loss: float | None = None, macro_f1: float | None = None) -> None:
        self._report(
            TrainingProgress(
                step=state.global_step, num_steps=state.max_steps, epoch=state.epoch, loss=loss, macro_f1=macro_f1
            )
        )


def _is_surer(result: EpochResult, best: EpochResult) -> bool:
    return result.macro_f1 == best.macro_f1 and result.validation_loss < best.validation_loss
