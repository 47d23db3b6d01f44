"""What `engine_settings` may say, for each engine that ships. Needs no heavy import, so that `plan` can check it."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ConfigError

MAX_MESSAGE = 300
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SettingsT = TypeVar("SettingsT", bound="EngineSettings")


class EngineSettings(BaseModel):
    """Base: unknown settings are refused, and read settings do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TransformersSettings(EngineSettings):
    """Settings of the transformers engine."""

    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None, description="attention implementation; default: what transformers chooses for the architecture"
    )


class ScriptedSettings(EngineSettings):
    """Settings of the scripted engine: what it says, how long it takes, and the faults that it injects."""

    replies: Path | dict[str, str] = Field(
        default_factory=dict, description='a JSONL file of {"id": ..., "text": ...}, or a mapping id -> text'
    )
    text: str | None = Field(
        None, description="reply for other ids; {id} is replaced by the id; default: words drawn from a hash"
    )
    prefer: dict[str, str] = Field(default_factory=dict, description="id -> the choice that gets the best likelihood")
    seconds_per_token: Seconds = 0.0
    seconds_per_batch: Seconds = 0.0
    load_s: Seconds = 0.0
    memory_bytes: Annotated[int, Field(ge=0)] = Field(0, description="pretended size of the weights")
    fail_to_load: str | None = Field(None, description="the engine cannot be made, with this message")
    error_on: tuple[str, ...] = Field((), description="ids whose answers carry an error")
    crash_on: tuple[str, ...] = Field((), description="ids that end the process at once")
    crash_times: Annotated[int, Field(ge=1)] = Field(1, description="times that each of them does so, over all runs")
    hang_on: tuple[str, ...] = Field((), description="ids that never return")
    hang_times: Annotated[int, Field(ge=1)] | None = Field(None, description="times that each does so; default: always")
    fault_dir: Path | None = Field(None, description="where crashes and hangs are counted; shared by all processes")

    @model_validator(mode="after")
    def _counted_faults_need_a_place(self) -> Self:
        counted = self.crash_on or (self.hang_on and self.hang_times is not None)
        if counted and self.fault_dir is None:
            raise ValueError("crash_on and hang_times need fault_dir, where the faults are counted")
        return self


def parse_settings(kind: type[SettingsT], model: ModelConfig) -> SettingsT:
    """Return the model's `engine_settings` as `kind`; raises `ConfigError` that names the wrong setting."""
    try:
        return kind.model_validate(model.engine_settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("engine_settings", *first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        problem = f"{first['msg'].removeprefix('Value error, ')}, not {first['input']!r}"
        raise ConfigError(
            "no such setting" if unknown else problem[:MAX_MESSAGE],
            where=key,
            remedy=f"settings of the {model.engine} engine are: {', '.join(sorted(kind.model_fields))}",
        ) from error
