"""The gate of a merged mixture: network, records, and directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.config.schema import PromptStyle
from moe_ray.errors import ModelError
from moe_ray.files import StoredRecord, write_directory_atomically, write_json
from moe_ray.gating.calibration import LabelResult
from moe_ray.gating.fitting import damaged, load_gating, save_gating

GATE_FILE = "gate.json"
INFO_FILE = "training_info.json"
LAST_FOLDER = "final"


class GateRecord(StoredRecord):
    """gate.json. `embeddings_sha256` is the hash of the input embeddings that the gate was trained on."""

    format: Literal[1] = 1
    experts: list[str]
    base_model: str
    prompt_style: PromptStyle
    max_tokens: int
    embeddings_sha256: str


class GateResult(StoredRecord):
    """A gate's result on n texts. `confusion[i][j]`: number of texts of expert i with expert j as the most probable."""

    n: int
    accuracy: float
    macro_f1: float
    mean_confidence: float
    per_expert: list[LabelResult]
    confusion: list[list[int]]


class GateEpoch(StoredRecord):
    """Mean training loss of an epoch, and macro-F1 and mean loss on the validation texts after it."""

    epoch: int
    loss: float
    macro_f1: float
    validation_loss: float


class GateTrainingInfo(StoredRecord):
    """training_info.json. `num_texts` counts by split, then by expert; `sources` are the cleaning reports.

    `test` texts come from training sources, `held_out` texts from sources of use "test"; None without any.
    `temperature` divides the logits of the closed form; None for a trained gate.
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
    """A gating network in evaluation mode, with its record."""

    network: GatingNetwork
    record: GateRecord
    directory: Path


def read_gate(directory: Path) -> Gate:
    """Read a gate that `TrainedGate.save` wrote. Raises `ModelError` if files are missing or damaged."""
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
    """A gate with the weights of its best epoch. `last` has those of the last epoch; None for the closed form."""

    network: GatingNetwork
    last: GatingNetwork | None
    record: GateRecord
    info: GateTrainingInfo

    def save(self, directory: Path) -> None:
        """Write the gate to `directory` atomically; an existing gate is replaced.

        Raises `ModelError` if the directory holds anything else.
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
    """Raise `ModelError` if `directory` holds anything but a gate."""
    if directory.exists() and not (directory / GATE_FILE).is_file():
        if directory.is_dir() and not any(directory.iterdir()):
            return
        raise ModelError(
            "refusing to overwrite: not a gate directory",
            where=str(directory),
            remedy="name a new or empty directory",
        )
