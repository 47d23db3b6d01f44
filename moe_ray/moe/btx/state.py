"""Files of a training: a state to resume from, and at the end a record."""

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
    """Means over the steps since the point before. `balancing`, `z` and the layers' load entropy are a mixture's.

    `loss` is what was minimised, in nats a token. `load_entropy`, by the decoder layer's number, is the entropy of the
    experts' shares of the tokens as a part of its maximum: 1 is an even load.
    """

    step: int
    loss: float
    balancing: float | None = None
    z: float | None = None
    load_entropy: dict[int, float] | None = None


class TrainingRecord(StoredRecord):
    """A finished training. `identity` names what decided its weights."""

    identity: str
    num_steps: int
    num_tokens: int
    history: list[HistoryPoint]


def read_record(path: Path, identity: str) -> TrainingRecord | None:
    """Read the record of a finished training; None when there is none. Raises `RunDirectoryError` for another's."""
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
    """Parameters, optimizer, random numbers and history of one training, kept in one file."""

    def __init__(
        self, path: Path, identity: str, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> None:
        self._path, self._identity, self._trained, self._optimizer = path, identity, trained, optimizer

    def keep(self, step: int, history: list[HistoryPoint]) -> None:
        """Write the state after `step` steps, whole or not at all."""
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
        """Take up the state that is there: the steps done, and their history; 0 and none when nothing is there.

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
            # What is no pickle of tensors makes its reader raise anything; the cause is kept.
            raise RunDirectoryError("is a damaged state of a training", where=str(self._path), remedy=REMEDY) from error
        return state
