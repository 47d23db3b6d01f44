"""The configuration file of `moe-ray specialise train-toy`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moe_ray.config.load import parse_section
from moe_ray.config.section import Name, Section
from moe_ray.domains.sources import read_text, resolve_path

TEXTS_KEYS = ("texts=", "texts.file=")


class ToyTextsConfig(Section):
    """Labelled texts: records with `text` and a class."""

    file: str = Field(description="JSON, JSONL, CSV or Parquet file with the columns text and label")
    label: str | None = Field(None, description="column of the class; default: label, class, domain")
    classes: dict[Name, tuple[str, ...]] | None = Field(
        None, description="class -> labels of records; records with other labels are left out. Default: the labels"
    )
    max_per_class: Annotated[int, Field(ge=20)] | None = Field(None, description="limit, drawn by a hash of the ids")


class ToyModelConfig(Section):
    """A small mixture with a head for classes."""

    kind: Literal["token_mixture", "mixtral"] = Field(
        "token_mixture", description="token_mixture: no attention, mean over tokens; mixtral: transformers' own class"
    )
    embedding: Annotated[int, Field(ge=4)] = Field(32, description="size of a token's state, a multiple of 4")
    hidden: Annotated[int, Field(ge=4)] = Field(64, description="inner size of an expert, a multiple of 4")
    layers: Annotated[int, Field(ge=1)] = 1
    heads: Annotated[int, Field(ge=1)] = Field(4, description="attention heads of mixtral")
    experts: Annotated[int, Field(ge=2)] = 4
    top_k: Annotated[int, Field(ge=1)] = 2

    @model_validator(mode="after")
    def _possible(self) -> "ToyModelConfig":
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, but there are {self.experts} experts")
        if self.embedding % 4 or self.hidden % 4:
            raise ValueError("embedding and hidden must be multiples of 4, as matrices of experts are")
        if self.kind == "mixtral" and self.embedding % (2 * self.heads):
            raise ValueError(f"embedding ({self.embedding}) must be a multiple of twice the heads ({self.heads})")
        return self

    def fields(self, *, max_tokens: int) -> Mapping[str, Any]:
        """Return the fields of the model's configuration in transformers' words."""
        common = {
            "hidden_size": self.embedding,
            "num_hidden_layers": self.layers,
            "num_experts_per_tok": self.top_k,
            "max_position_embeddings": max_tokens,
        }
        if self.kind == "token_mixture":
            return {**common, "moe_intermediate_size": self.hidden, "num_experts": self.experts}
        heads = {"num_attention_heads": self.heads, "num_key_value_heads": self.heads}
        own = {"intermediate_size": self.hidden, "num_local_experts": self.experts, "initializer_range": 0.1}
        return {**common, **heads, **own, "sliding_window": None}


class ToyTrainingConfig(Section):
    """AdamW with warm-up and cosine, and a loss that balances the experts' loads."""

    epochs: Annotated[int, Field(ge=1)] = 6
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    balancing: Annotated[float, Field(ge=0)] = Field(0.01, description="coefficient of load balancing")


class ToyConfig(Section):
    """What is trained: one model for each seed, on the same texts."""

    texts: ToyTextsConfig
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.3, description="share of texts that are held out")
    vocabulary_size: Annotated[int, Field(ge=300)] = Field(2048, description="tokens that are learned from the texts")
    max_tokens: Annotated[int, Field(ge=2)] = Field(64, description="a text's first tokens, which are read")
    model: ToyModelConfig = ToyModelConfig()
    training: ToyTrainingConfig = ToyTrainingConfig()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    cpu_threads: Annotated[int, Field(ge=1)] = Field(1, description="more help only larger models than these")

    @model_validator(mode="after")
    def _different_seeds(self) -> "ToyConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice: it would be one model twice")
        return self

    def deciding(self) -> dict[str, Any]:
        """Return what decides each seed's weights, apart from the texts themselves."""
        return self.model_dump(mode="json", exclude={"seeds": True, "texts": {"file": True}})


def load_toy_config(path: Path, overrides: Sequence[str] = ()) -> ToyConfig:
    """Read the file with `KEY=VALUE` overrides; the texts' path becomes absolute.

    It is relative to the file's folder, and in an override to the current one. Raises `ConfigError` and `DataError`.
    """
    config = parse_section(read_text(path), str(path), ToyConfig, overrides)
    is_given = any(one.strip().startswith(TEXTS_KEYS) for one in overrides)
    base_dir = Path.cwd() if is_given else path.absolute().parent
    texts = config.texts.model_copy(update={"file": str(resolve_path(config.texts.file, base_dir))})
    return config.model_copy(update={"texts": texts})
