"""The configuration file of `moe-ray moe train-gate`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from moe_ray.config.load import parse_section
from moe_ray.config.schema import OtherTextsConfig, PromptStyle, RouterTrainingConfig, is_local_path
from moe_ray.config.section import Name
from moe_ray.domains.sources import read_text, resolve_path


class GateTextsConfig(OtherTextsConfig):
    """Texts of one expert. A source of use "test" is held out: no part of it is used for training."""


class GateConfig(RouterTrainingConfig):
    """A gate: mean input embedding of a prompt -> probabilities over experts.

    Has all keys of `RouterTrainingConfig` too: hidden_sizes, dropout, learning_rate, batch_size, epochs and others.
    """

    base_model: str = Field(min_length=1, description="hub id or local path: the model whose fine-tunes are merged")
    revision: str | None = None
    data: dict[Name, tuple[GateTextsConfig, ...]] = Field(
        min_length=2, description="expert -> data sets of its texts; their order is the experts'"
    )
    method: Literal["train", "ridge"] = Field(
        "train", description="train: fit an MLP step by step; ridge: one linear layer in closed form, not trained"
    )
    ridge_strength: Annotated[float, Field(gt=0)] = Field(
        0.1, description="penalty on the weights of ridge, as a share of a feature's spread"
    )
    prompt_style: PromptStyle = Field(
        "completion", description="how the merged model is prompted: plain text, or the chat template"
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
