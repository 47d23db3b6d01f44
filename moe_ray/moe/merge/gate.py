"""The gate of a merged mixture: its configuration, its record, its directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.config.schema import PromptStyle
from moe_ray.errors import ModelError
from moe_ray.files import StoredRecord, write_directory_atomically, write_json
from moe_ray.gating.calibration import LabelResult
from moe_ray.gating.network import damaged, load_gating, save_gating

GATE_FILE = "gate.json"
INFO_FILE = "training_info.json"
LAST_FOLDER = "final"


class GateRecord(StoredRecord):
    """gate.json. `embeddings_sha256` names the input embeddings that the gate learned to read."""

    format: Literal[1] = 1
    experts: list[str]
    base_model: str
    prompt_style: PromptStyle
    max_tokens: int
    embeddings_sha256: str


class GateResult(StoredRecord):
    """A gate on n texts. `confusion[i][j]`: texts for expert i that it gives expert j the highest probability for."""

    n: int
    accuracy: float
    macro_f1: float
    mean_confidence: float
    per_expert: list[LabelResult]
    confusion: list[list[int]]


class GateEpoch(StoredRecord):
    """Mean loss of an epoch's batches, and macro-F1 and mean loss on the validation texts after it."""

    epoch: int
    loss: float
    macro_f1: float
    validation_loss: float


class GateTrainingInfo(StoredRecord):
    """training_info.json. `num_texts` counts by split, then by expert; `sources` says what became of all records.

    `test` texts come from the sources that were trained on, `held_out` ones from sources that were not; None without
    any. `temperature` is what the closed form's logits were divided by; None for a trained gate.
    """

    moe_ray_version: str
    settings: dict[str, Any]
    num_texts: dict[str, dict[str, int]]
    sources: list[dict[str, Any]]
    history: list[GateEpoch]
    best_epoch: int | None
    temperature: float | None
    validation: GateResult
    test: GateResult
    held_out: GateResult | None
    held_out_accuracy: dict[str, float]
    train_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """A gating network in evaluation mode, and what it is for."""

    network: GatingNetwork
    record: GateRecord
    directory: Path


def read_gate(directory: Path) -> Gate:
    """Read what `TrainedGate.save` wrote. Raises `ModelError` naming what is missing or damaged."""
    path = directory / GATE_FILE
    if not path.is_file():
        what = f"not a gate directory: {GATE_FILE} is missing" if directory.exists() else "no such directory"
        raise ModelError(what, where=str(directory), remedy="name the folder that moe-ray moe train-gate wrote")
    try:
        record = GateRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise damaged(path, error) from error
    network = load_gating(directory)
    if network.num_outputs != len(record.experts):
        raise ModelError(
            f"{len(record.experts)} experts, but weights for {network.num_outputs}",
            where=str(path),
            remedy="copy the gate's whole directory again, or train it again",
        )
    return Gate(network=network, record=record, directory=directory)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedGate:
    """A gate with the weights of its best epoch, and `last` with those of the last; None for the closed form."""

    network: GatingNetwork
    last: GatingNetwork | None
    record: GateRecord
    info: GateTrainingInfo

    def save(self, directory: Path) -> None:
        """Write the gate to `directory`, whole or not at all; a gate that is there is replaced.

        Raises `ModelError` for a directory that holds something else.
        """
        require_gate_or_nothing(directory)
        write_directory_atomically(directory, self._write)

    def _write(self, directory: Path) -> None:
        save_gating(self.network, directory)
        if self.last is not None:
            (directory / LAST_FOLDER).mkdir()
            save_gating(self.last, directory / LAST_FOLDER)
        write_json(directory / INFO_FILE, self.info)
        write_json(directory / GATE_FILE, self.record)


def require_gate_or_nothing(directory: Path) -> None:
    """Raise `ModelError` when writing a gate to `directory` would remove something else."""
    if directory.exists() and not (directory / GATE_FILE).is_file():
        if directory.is_dir() and not any(directory.iterdir()):
            return
        raise ModelError(
            "refusing to overwrite: not a gate directory",
            where=str(directory),
            remedy="name a new or empty directory",
        )
