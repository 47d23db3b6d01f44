"""Fit a gating network to precomputed features, so that an epoch takes almost no time; save and load it."""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.config.schema import RouterTrainingConfig
from moe_ray.errors import ModelError, first_line
from moe_ray.files import read_json
from moe_ray.gating.calibration import confusion_matrix, fit_temperature, macro_f1
from moe_ray.progress import Report, TrainingProgress

# Measured with the embeddings of three tokenizers, on questions of three domains that are easy to tell apart and on
# noisy posts of four kinds: 3e-4 learns less in the epochs that patience allows, and at 1e-3 the macro-F1 of the noisy
# ones wavers so much that training ends too early. It mostly ends after 4 to 10 epochs; up to 30 gained nothing.
DEFAULT_EPOCHS = 15
DEFAULT_LEARNING_RATE = 6e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """The network's shape, and how it is fitted. `patience`: epochs without a better macro-F1 before it ends."""

    hidden_sizes: tuple[int, ...]
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    patience: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledFeatures:
    """Features [n, H] and the place of each row's label [n], both on one device."""

    features: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Mean loss of an epoch's batches, and macro-F1 and mean loss on the validation rows after it."""

    loss: float
    macro_f1: float
    validation_loss: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A network in evaluation mode with the weights of `best_epoch`, counted from 1, and what each epoch reached.

    `last` is the same network as the last epoch left it.
    """

    network: GatingNetwork
    last: GatingNetwork
    epochs: tuple[Epoch, ...]
    best_epoch: int


def balanced_weights(labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """Weights [num_labels] that give every label the same part in the loss; each of them has some row."""
    return len(labels) / (num_labels * torch.bincount(labels, minlength=num_labels).float())


def fit(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    num_outputs: int,
    settings: FitSettings,
    *,
    label_weights: torch.Tensor | None = None,
    report: Report,
) -> Fitted:
    """Fit a new network with AdamW, at a learning rate that rises linearly and then falls linearly to zero.

    Its best epoch has the highest macro-F1 on `validation`, and of equal ones the lowest loss there. The same
    arguments give the same weights on the same machine; torch's own random state is left as it was.
    """
    with _seeded(settings.seed, train.features.device):
        fitting = _Fitting(train, validation, num_outputs, settings, label_weights)
        return fitting.run(report)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class _Fitting:
    def __init__(
        self,
        train: LabelledFeatures,
        validation: LabelledFeatures,
        num_outputs: int,
        settings: FitSettings,
        label_weights: torch.Tensor | None,
    ) -> None:
        num_inputs = train.features.shape[1]
        network = GatingNetwork(
            num_inputs, num_outputs, hidden_sizes=settings.hidden_sizes, dropout=settings.dropout
        ).to(train.features.device)
        network.standardise(train.features)
        self._network = network
        self._train, self._validation = train, validation
        self._settings = settings
        self._loss = nn.CrossEntropyLoss(weight=label_weights)
        self._steps_per_epoch = math.ceil(len(train.labels) / settings.batch_size)
        self._num_steps = settings.epochs * self._steps_per_epoch
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._scheduler = transformers.get_linear_schedule_with_warmup(
            self._optimizer, round(settings.warmup_fraction * self._num_steps), self._num_steps
        )

    def run(self, report: Report) -> Fitted:
        epochs: list[Epoch] = []
        best, best_weights = 0, copy.deepcopy(self._network.state_dict())
        last_rise = 0  # the epoch that last raised the macro-F1: an equal one with less loss earns no patience
        while len(epochs) < self._settings.epochs and len(epochs) - last_rise < self._settings.patience:
            epochs.append(self._epoch())
            if len(epochs) == 1 or epochs[-1].macro_f1 > epochs[best - 1].macro_f1:
                last_rise = len(epochs)
            if len(epochs) == 1 or _merit(epochs[-1]) > _merit(epochs[best - 1]):
                best, best_weights = len(epochs), copy.deepcopy(self._network.state_dict())
            report(self._progress(epochs))
        last = copy.deepcopy(self._network).eval()
        self._network.load_state_dict(best_weights)
        return Fitted(network=self._network.eval(), last=last, epochs=tuple(epochs), best_epoch=best)

    def _epoch(self) -> Epoch:
        self._network.train()
        order = torch.randperm(len(self._train.labels)).to(self._train.labels.device)
        losses = [self._step(rows) for rows in torch.split(order, self._settings.batch_size)]
        self._network.eval()
        with torch.inference_mode():
            logits = self._network(self._validation.features)
            validation_loss = self._loss(logits, self._validation.labels).item()
        gold, predicted = (part.cpu().numpy() for part in (self._validation.labels, logits.argmax(dim=1)))
        return Epoch(
            loss=torch.stack(losses).mean().item(),
            macro_f1=macro_f1(confusion_matrix(gold, predicted, logits.shape[1])),
            validation_loss=validation_loss,
        )

    def _step(self, rows: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._loss(self._network(self._train.features[rows]), self._train.labels[rows])
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _progress(self, epochs: list[Epoch]) -> TrainingProgress:
        return TrainingProgress(
            step=len(epochs) * self._steps_per_epoch,
            num_steps=self._num_steps,
            epoch=float(len(epochs)),
            loss=epochs[-1].loss,
            macro_f1=epochs[-1].macro_f1,
        )


def _merit(epoch: Epoch) -> tuple[float, float]:
    return epoch.macro_f1, -epoch.validation_loss


def fit_ridge(
    train: LabelledFeatures, validation: LabelledFeatures, num_experts: int, *, strength: float
) -> tuple[GatingNetwork, float]:
    """Return a linear gate that regresses to 1 for a text's expert and 0 for the others, and its temperature.

    `strength` is the penalty on the weights as a share of a feature's spread. The regression's values are no logits:
    they are divided by the temperature at which the validation texts are likeliest, so that probabilities mean
    something. Experts weigh evenly, however many texts each has.
    """
    network = GatingNetwork(train.features.shape[1], num_experts, hidden_sizes=(), dropout=0.0)
    network = network.to(train.features.device).eval()
    network.standardise(train.features)
    with torch.inference_mode():
        weight, bias = _solve(_directions(network, train.features), train.labels, num_experts, strength)
        network.output.weight.copy_(weight)
        network.output.bias.copy_(bias)
        logits = network(validation.features).double().cpu().numpy()
        temperature = fit_temperature(logits, validation.labels.cpu().numpy())
        network.output.weight.div_(temperature)
        network.output.bias.div_(temperature)
    return network, temperature


def _directions(network: GatingNetwork, features: torch.Tensor) -> torch.Tensor:
    """What the output layer of a network without hidden layers sees, in float64 [n, H]."""
    return nn.functional.normalize(network.features(features).double(), dim=1) * math.sqrt(network.num_inputs)


def _solve(
    inputs: torch.Tensor, labels: torch.Tensor, num_experts: int, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [num_experts, H] and biases [num_experts] of the regression on `inputs` [n, H]."""
    shares = 1 / torch.bincount(labels, minlength=num_experts).double()
    weights = (shares[labels] / num_experts)[:, None]
    targets = nn.functional.one_hot(labels, num_experts).double()
    input_mean, target_mean = (weights * inputs).sum(dim=0), (weights * targets).sum(dim=0)
    centred = inputs - input_mean
    gram = centred.T @ (weights * centred)
    penalty = strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution = torch.linalg.solve(gram + penalty, centred.T @ (weights * (targets - target_mean)))
    return solution.T, target_mean - input_mean @ solution


def fit_settings(training: RouterTrainingConfig) -> FitSettings:
    """How a gating network is fitted on embeddings, with what `training` leaves open filled in."""
    return FitSettings(
        hidden_sizes=training.hidden_sizes,
        dropout=training.dropout,
        epochs=training.epochs or DEFAULT_EPOCHS,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate or DEFAULT_LEARNING_RATE,
        weight_decay=training.weight_decay,
        warmup_fraction=training.warmup_fraction,
        patience=training.patience,
        seed=training.seed,
    )


SHAPE_FILE = "gating.json"
WEIGHTS_FILE = "gating.safetensors"


def save_gating(network: GatingNetwork, directory: Path) -> None:
    """Write gating.json and gating.safetensors into an existing directory."""
    shape = {
        "num_inputs": network.num_inputs,
        "num_outputs": network.num_outputs,
        "hidden_sizes": network.hidden_sizes,
        "dropout": network.dropout,
    }
    (directory / SHAPE_FILE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, directory / WEIGHTS_FILE)


def load_gating(directory: Path, *, device: str = "cpu") -> GatingNetwork:
    """Read a saved network back, in evaluation mode. Raises `ModelError` naming the missing or damaged file."""
    path = directory / SHAPE_FILE
    try:
        network = GatingNetwork(**read_json(path))
        path = directory / WEIGHTS_FILE
        network.load_state_dict(load_file(path))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise damaged(path, error) from error
    return network.to(device).eval()


def damaged(path: Path, error: Exception) -> ModelError:
    """Return the error for a saved file that is missing or cannot be read."""
    return ModelError(
        f"missing or damaged: {first_line(error)}", where=str(path), remedy="copy its whole directory again"
    )
