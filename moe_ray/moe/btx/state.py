"""Progress of a training: means over steps, a state to resume from, and the final record."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from moe_ray.domains.sources import read_text
from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord, write_atomically

REMEDY = "name another folder, remove this one, or ask for the same training again"


class HistoryPoint(StoredRecord):
    """Means over the steps since the previous point. `balancing`, `z` and `load_entropy` are None for dense models.

    `loss` is the training loss in nats per token. `load_entropy` maps a decoder layer to the entropy of its experts'
    token shares, divided by the maximum: 1 is an even load.
    """

    step: int
    loss: float
    balancing: float | None = None
    z: float | None = None
    load_entropy: dict[int, float] | None = None


class TrainingRecord(StoredRecord):
    """A finished training. `identity` is the fingerprint of everything that determines its weights."""

    identity: str
    num_steps: int
    num_tokens: int
    history: list[HistoryPoint]


def read_record(path: Path, identity: str) -> TrainingRecord | None:
    """Read the record of a finished training; None without one. Raises `RunDirectoryError` if it is another's."""
    if not path.is_file():
        return None
    try:
        record = TrainingRecord.model_validate_json(read_text(path))
    except ValidationError as error:
        raise RunDirectoryError("is not a record of a training", where=str(path), remedy=REMEDY) from error
    if record.identity != identity:
        raise RunDirectoryError("is of a training with other texts or settings", where=str(path), remedy=REMEDY)
    return record


class TrainingState:
    """Parameters, optimizer, random number generators and history of one training, in one file."""

    def __init__(
        self, path: Path, identity: str, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> None:
        self._path, self._identity, self._trained, self._optimizer = path, identity, trained, optimizer

    def keep(self, step: int, history: list[HistoryPoint]) -> None:
        """Write the state after `step` steps atomically."""
        state = {
            "identity": self._identity,
            "step": step,
            "history": [point.model_dump() for point in history],
            "parameters": {name: parameter.detach() for name, parameter in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        write_atomically(self._path, lambda path: torch.save(state, path))

    def restore(self) -> tuple[int, list[HistoryPoint]]:
        """Load the saved state, and return the number of finished steps and their history; (0, []) without a state.

        Raises `RunDirectoryError` for the state of another training.
        """
        if not self._path.is_file():
            return 0, []
        state = self._read()
        if state["identity"] != self._identity:
            raise RunDirectoryError(
                "is the state of a training with other texts or settings", where=str(self._path), remedy=REMEDY
            )
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        return state["step"], [HistoryPoint.model_validate(point) for point in state["history"]]

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch.load raises arbitrary errors for a damaged file; the cause is chained.
            raise RunDirectoryError("is a damaged state of a training", where=str(self._path), remedy=REMEDY) from error
        return state


def mixture_layers(config: Any) -> tuple[int, ...]:
    """Return the decoder layers with experts in a configuration of moe_ray's own architectures; () for dense models."""
    if not hasattr(config, "is_mixture"):
        return ()
    return tuple(layer for layer in range(config.num_hidden_layers) if config.is_mixture(layer))


def load_entropy(counts: torch.Tensor) -> float:
    """Return the entropy of the shares in `counts` [E], divided by its maximum: 1 for equal shares."""
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.clamp(min=1e-300).log()).sum() / math.log(len(counts)))


class GateWatch:
    """Accumulates means over training steps: the loss and, for a mixture, gate losses and load entropy by layer."""

    def __init__(self, config: Any) -> None:
        self._layers = mixture_layers(config)
        self._top_k = getattr(config, "num_experts_per_tok", 1)
        self._reset()

    def _reset(self) -> None:
        self._num_steps = 0.0
        self._sums: dict[str, float] = {}
        self._counts: dict[int, torch.Tensor] = {}

    def add(self, output: Any, share: float) -> None:
        """Add the model output of a part of a step; `share` is the part's weight."""
        self._num_steps += share
        found = {"loss": output.loss, "balancing": output.get("aux_loss"), "z": output.get("z_loss")}
        for name, value in found.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + share * float(value.detach())
        for layer, logits in zip(self._layers, output.get("router_logits") or (), strict=False):
            self._count(layer, logits.detach())

    def _count(self, layer: int, logits: torch.Tensor) -> None:
        """Count the experts that the tokens of `logits` [T, E] are routed to."""
        chosen = logits.topk(self._top_k, dim=-1).indices.flatten()
        counts = torch.bincount(chosen, minlength=logits.shape[-1]).cpu()
        self._counts[layer] = self._counts[layer] + counts if layer in self._counts else counts

    def means(self) -> dict[str, Any]:
        """Return the fields of a `HistoryPoint` for the steps since the last call, and reset."""
        means: dict[str, Any] = {name: total / self._num_steps for name, total in self._sums.items()}
        if self._counts:
            means["load_entropy"] = {layer: load_entropy(counts) for layer, counts in self._counts.items()}
        self._reset()
        return means
