"""The configuration file of `moe-ray moe pretrain` and `moe-ray moe finetune`."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moe_ray.config.load import parse_section
from moe_ray.config.schema import RuntimeConfig, is_local_path
from moe_ray.config.section import Name, Section
from moe_ray.domains.sources import read_text, resolve_path
from moe_ray.moe.upcycle.request import GateRequest

TrainedPart = Literal["everything", "networks", "gates", "gates and experts"]


class TextsConfig(Section):
    """Texts to learn from: a column of a data set's records, or examples, each a prompt and the reference after it.

    Examples are those of a task's data set, or of a domain of an experiment.
    """

    source: str | None = Field(None, description="hub id, or a local .json, .jsonl, .csv, .tsv or .parquet file")
    column: str = Field("text", description="the column that holds the text")
    task: str | None = Field(None, description="a task that reads the records of source: coding, math, reasoning, ...")
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    experiment: str | None = Field(None, description="an experiment file, in place of source")
    domain: Name | None = Field(None, description="its domain")
    max_texts: Annotated[int, Field(ge=1)] | None = Field(None, description="limit, drawn by a hash of the texts")

    @model_validator(mode="after")
    def _one_kind(self) -> "TextsConfig":
        if (self.source is None) == (self.experiment is None):
            raise ValueError("name either source or experiment")
        if (self.experiment is None) != (self.domain is None):
            raise ValueError("experiment and domain go together")
        if self.task is not None and (self.source is None or "column" in self.model_fields_set):
            raise ValueError("a task reads the columns of source that it knows: give source, and leave column out")
        return self


class ExpertTraining(Section):
    """How a model is trained on a stream of text: AdamW, warm-up and cosine, blocks of one length."""

    steps: Annotated[int, Field(ge=1)] | None = Field(None, description="default: as many as epochs need")
    epochs: Annotated[float, Field(gt=0)] | None = Field(None, description="times through the text; 1 without steps")
    batch_size: Annotated[int, Field(ge=1)] = Field(8, description="blocks of a step")
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = Field(
        1, description="parts that a step's blocks are computed in, one after the other, to need less memory"
    )
    block_tokens: Annotated[int, Field(ge=2)] = Field(256, description="tokens of a block")
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="bfloat16: autocast; weights, optimizer and gates stay in float32"
    )
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(
        100, description="steps between two states that a training can be resumed from"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> "ExpertTraining":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs")
        if self.gradient_accumulation_steps > self.batch_size:
            raise ValueError(f"{self.batch_size} blocks cannot be cut into {self.gradient_accumulation_steps} parts")
        return self

    def deciding(self) -> dict[str, Any]:
        """Return the settings that determine the trained weights; the others may change between resumptions."""
        return self.model_dump(mode="json", exclude={"checkpoint_every", "gradient_accumulation_steps"})

    def num_steps(self, num_blocks: int) -> int:
        """Steps of a training on `num_blocks` blocks."""
        return self.steps or max(1, math.ceil((self.epochs or 1.0) * num_blocks / self.batch_size))


class FinetuneSettings(ExpertTraining):
    """How a mixture's own parts are trained; the coefficients are of losses of each layer's gate, averaged."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    with_experts: bool = Field(False, description="train the experts too, which then differ from their checkpoints")
    balancing: Annotated[float, Field(ge=0)] = Field(0.01, description="coefficient of load balancing")
    z: Annotated[float, Field(ge=0)] = Field(0.001, description="coefficient of the z-loss, which keeps logits small")

    @property
    def part(self) -> TrainedPart:
        return "gates and experts" if self.with_experts else "gates"


class PretrainConfig(Section):
    """Experts that share a frozen backbone, each trained on its own domain's texts."""

    base_model: str | None = Field(None, description="local folder of the dense checkpoint that all start from")
    architecture: dict[str, Any] | None = Field(
        None, description="a transformers configuration, in place of base_model: {model_type: gpt_neo, ...}"
    )
    tokenizer: str | None = Field(
        None, description="local folder of the architecture's tokenizer; default: byte pairs learned from the texts"
    )
    experts: dict[Name, tuple[TextsConfig, ...]] = Field(
        min_length=2, description="expert -> its texts; their order is the experts'"
    )
    anchor: ExpertTraining | None = Field(
        None, description="train the whole model on all texts first; the experts then start from it"
    )
    training: ExpertTraining = Field(ExpertTraining(), description="of each expert")
    top_k: Annotated[int, Field(ge=1)] = Field(2, description="experts that answer a token of the mixture")
    gate: GateRequest = Field(GateRequest(init="ridge"), description="the mixture's gates before finetune")
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of each expert's texts that nothing is trained on"
    )
    finetune: FinetuneSettings = Field(FinetuneSettings(), description="of the mixture, for `moe-ray moe finetune`")
    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field("auto", description="GPUs of a training")
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _one_start(self) -> "PretrainConfig":
        if (self.base_model is None) == (self.architecture is None):
            raise ValueError("name either base_model or architecture")
        if self.tokenizer is not None and self.architecture is None:
            raise ValueError("a base model has its own tokenizer: leave tokenizer out")
        if self.top_k > len(self.experts):
            raise ValueError(f"top_k is {self.top_k}, but there are {len(self.experts)} experts")
        return self


def load_pretrain_config(path: Path) -> PretrainConfig:
    """Read a YAML or JSON file; local folders of models in it become absolute.

    Raises `ConfigError` with every mistake and its line, and `DataError` when there is no such file.
    """
    config = parse_section(read_text(path), str(path), PretrainConfig)
    base_dir = path.absolute().parent
    given = {"base_model": config.base_model, "tokenizer": config.tokenizer}
    local = {key: str(resolve_path(value, base_dir)) for key, value in given.items() if value and is_local_path(value)}
    return config.model_copy(update=local)
