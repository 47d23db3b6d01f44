"""The gate of a merged mixture: its configuration, its record, its directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.config.load import parse_section
from moe_ray.config.schema import Name, OtherTextsConfig, PromptStyle, RouterTrainingConfig, is_local_path
from moe_ray.domains.sources import read_text, resolve_path
from moe_ray.errors import ModelError
from moe_ray.files import StoredRecord
from moe_ray.gating.calibration import LabelResult
from moe_ray.gating.fitting import damaged, load_gating

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


class GateTextsConfig(OtherTextsConfig):
    """Texts that one expert is for. Those of use "test" are held out whole: a source that the gate never meets."""


class GateConfig(RouterTrainingConfig):
    """A gate: mean input embedding of a prompt -> probabilities over experts.

    The keys of `RouterTrainingConfig` (hidden_sizes, dropout, learning_rate, batch_size, epochs, weight_decay, seed and
    the others) stand beside these ones.
    """

    base_model: str = Field(min_length=1, description="hub id or local path: the model whose fine-tunes are merged")
    revision: str | None = None
    data: dict[Name, tuple[GateTextsConfig, ...]] = Field(
        min_length=2, description="expert -> data sets with what it is for; their order is the experts'"
    )
    method: Literal["train", "ridge"] = Field(
        "train", description="train: fit an MLP step by step; ridge: one linear layer in closed form, not trained"
    )
    ridge_strength: Annotated[float, Field(gt=0)] = Field(
        0.1, description="penalty on the weights of ridge, as a share of a feature's spread"
    )
    prompt_style: PromptStyle = Field(
        "completion", description="how the merged model will be asked: text as it is, or in the chat template"
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="share of the texts kept for testing")
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of the training texts that choose the best epoch"
    )
    balance: Literal["none", "weighted", "downsample"] = Field(
        "weighted", description="weighted: the loss weighs experts evenly; downsample: as many texts as the rarest has"
    )

    @model_validator(mode="after")
    def _ridge_is_one_layer(self) -> "GateConfig":
        if self.method == "ridge" and self.hidden_sizes and "hidden_sizes" in self.model_fields_set:
            raise ValueError("hidden_sizes must be [] or left out with method ridge, which is one linear layer")
        return self

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> "GateConfig":
        for expert, sources in self.data.items():
            if not any(texts.use == "train" for texts in sources):
                raise ValueError(f"data gives {expert} nothing to learn from: no data set of use train")
        return self


def load_gate_config(path: Path) -> GateConfig:
    """Read a YAML or JSON file. Local paths in it are relative to its folder.

    Raises `ConfigError` with every mistake and its line, and `DataError` when there is no such file.
    """
    config = parse_section(read_text(path), str(path), GateConfig)
    if is_local_path(config.base_model):
        base_model = str(resolve_path(config.base_model, path.absolute().parent))
        return config.model_copy(update={"base_model": base_model})
    return config
