"""A gate's directory.

gate.json           the experts in their order, and what a prompt is made to look like
gating.json         shape of the network \\ of the best epoch
gating.safetensors  its weights          /
final/              the same two files, as the last epoch left the network
training_info.json  how it was trained and how good it is: a diary, which decides nothing
"""

from typing import Any, Literal

from moe_ray.config.schema import PromptStyle
from moe_ray.routing.results import LabelResult
from moe_ray.store.records import StoredRecord

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
