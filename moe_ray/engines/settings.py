"""The `engine_settings` of each shipped engine. No heavy imports, so that `plan` can check them."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.transformers.mixture import forward_choice, intervention_of, mixture_facts, require_intervention
from moe_ray.errors import ConfigError
from moe_ray.mixtures.interventions import Intervention

MAX_MESSAGE = 300
# Settings whose wrong values may be a secret, or a mapping that repeats the whole section.
CHAT_TEMPLATE_KWARGS = "chat_template_kwargs"
UNSHOWN = (("api_key_env",), ("base_url",), ("env",), ("extra_body",))
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SettingsT = TypeVar("SettingsT", bound="EngineSettings")

# Marks of fields. Every other field decides the text, and enters a model's fingerprint.
EXECUTION = "execution"  # speed, retries, timeouts, or a simulation of them: never in a fingerprint
NAMED_BY_IDENTITY = "named by identity"  # in the fingerprint, unless the setting `identity` stands for it


class EngineSettings(BaseModel):
    """An engine's settings, and what planning must know of the engine before anything is loaded.

    A class of the user's (`engine: module:Class`) names its own subclass in the attribute `Settings`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    needs_gpu: ClassVar[bool] = True
    """Whether a copy takes GPUs of this cluster, if there are any. Without, `where_it_runs` says why."""
    where_it_runs: ClassVar[str] = ""
    shares_gpu: ClassVar[bool] = True
    """Whether copies may share a GPU by default: false for an engine that takes all the memory there is."""
    has_files: ClassVar[bool] = True
    """Whether `path` is a checkpoint, which is hashed, measured and downloaded; else it is a name."""
    reads_single_files: ClassVar[bool] = False
    """Whether `path` may be one file, such as a GGUF."""
    loads_checkpoint: ClassVar[bool] = False
    """Whether the engine loads the checkpoint in its process, with transformers' tokenizer and at one commit."""
    gives_logprobs: ClassVar[bool] = False
    """Whether the engine obeys `num_logprobs` and `echo`, or refuses a request whose wish it cannot fulfil.

    Without, a served call that asks for them is refused before it is queued.
    """

    @classmethod
    def content(cls, model: ModelConfig) -> str:
        """Return what stands for the model in its fingerprint, for an engine without files."""
        return model.path

    @classmethod
    def size_bytes(cls, model: ModelConfig) -> int | None:  # noqa: ARG003 - subclasses read it
        """Bytes that a copy takes, for an engine without files; None if it takes none here."""
        return None

    @classmethod
    def reads_path(cls, model: ModelConfig) -> bool:  # noqa: ARG003 - subclasses read it
        """Say whether the engine finds the checkpoint by `path` alone, so that a copy elsewhere can stand in for it."""
        return cls.has_files

    @classmethod
    def require_meaning(cls, model: ModelConfig) -> None:
        """Raise `ConfigError` for a key of `model` that the engine would ignore. `where` is the key."""

    @classmethod
    def require_checkpoint(cls, model: ModelConfig, config: Mapping[str, Any]) -> None:
        """Raise `ConfigError` for a setting that the checkpoint rules out. `config` is its config.json.

        Called where config.json is at hand before anything is loaded.
        """

    @classmethod
    def canonical(cls, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `settings` as they enter the fingerprint: one spelling for what `config`, a config.json, makes one."""
        del config
        return settings

    @classmethod
    def text_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of `settings` that decide the text."""
        ignored = {EXECUTION} if settings.get("identity") is None else {EXECUTION, NAMED_BY_IDENTITY}
        dropped = {name for name, field in cls.model_fields.items() if any(mark in field.metadata for mark in ignored)}
        return {name: value for name, value in settings.items() if name not in dropped}


class AnySettings(EngineSettings):
    """Settings of an engine that declares none: all are passed on, and all decide the text."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class TransformersSettings(EngineSettings):
    """Settings of the transformers engine."""

    loads_checkpoint: ClassVar[bool] = True
    gives_logprobs: ClassVar[bool] = True

    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None, description="attention implementation; default: what transformers chooses for the architecture"
    )
    batching: Annotated[Literal["auto", "static", "continuous"], EXECUTION] = Field(
        "auto",
        description="greedy rows: static, the engine's own batches; continuous, transformers' paged cache; auto: "
        "continuous on a GPU with flash attention. Rows above temperature 0 always run in the engine's own batches",
    )
    expert: Annotated[int, Field(ge=0, strict=True)] | Annotated[str, Field(min_length=1)] | None = Field(
        None, description="name or place of the expert of a mixture that answers alone"
    )
    mode: Literal["weighted_sum", "select_one"] | None = Field(
        None, description="how the gate of a merged mixture mixes its experts; default: as the checkpoint says"
    )

    intervention: Annotated[Intervention | None, BeforeValidator(intervention_of)] = Field(
        None,
        description="removes experts of a mixture: {operation: reroute, experts: [3], layers: [7]}, or reroute:3@7",
    )

    @model_validator(mode="after")
    def _one_expert_is_not_mixed(self) -> Self:
        if self.expert is not None and self.mode is not None:
            raise ValueError("mode has no effect beside expert: an expert that answers alone is not mixed")
        if self.expert is not None and self.intervention is not None:
            raise ValueError("intervention has no effect beside expert: an expert that answers alone loses no other")
        return self

    @classmethod
    def require_checkpoint(cls, model: ModelConfig, config: Mapping[str, Any]) -> None:
        settings = parse_settings(cls, model)
        forward_choice(config, expert=settings.expert, mode=settings.mode)
        if settings.intervention is not None:
            require_intervention(config, settings.intervention)

    @classmethod
    def canonical(cls, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Name an expert that is given by its place; in a mixture without names, give its place as a number."""
        if settings.get("expert") is None:
            return settings
        with suppress(ConfigError):
            return {**settings, "expert": mixture_facts(config).canonical_expert(settings["expert"])}
        return settings

    @classmethod
    def text_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that decide the text, an intervention in its one spelling."""
        kept = super().text_settings(settings)
        if kept.get("intervention") is not None:
            with suppress(ValueError):
                kept["intervention"] = str(intervention_of(kept["intervention"]))
        return kept


class ScriptedSettings(EngineSettings):
    """Settings of the scripted engine: what it says, how long it takes, and the faults that it injects."""

    has_files: ClassVar[bool] = False

    replies: Path | dict[str, str] = Field(
        default_factory=dict, description='a JSONL file of {"id": ..., "text": ...}, or a mapping id -> text'
    )
    text: str | None = Field(
        None, description="reply for other ids; {id} is replaced by the id; default: words drawn from a hash"
    )
    prefer: dict[str, str] = Field(default_factory=dict, description="id -> the choice that gets the best likelihood")
    seconds_per_token: Annotated[Seconds, EXECUTION] = 0.0
    seconds_per_batch: Annotated[Seconds, EXECUTION] = 0.0
    load_s: Annotated[Seconds, EXECUTION] = 0.0
    memory_bytes: Annotated[int, Field(ge=0), EXECUTION] = Field(0, description="pretended size of the weights")
    fail_to_load: Annotated[str | None, EXECUTION] = Field(
        None, description="the engine cannot be made, with this message"
    )
    error_on: tuple[str, ...] = Field((), description="ids whose answers carry an error")
    crash_on: Annotated[tuple[str, ...], EXECUTION] = Field((), description="ids that end the process at once")
    crash_times: Annotated[int, Field(ge=1), EXECUTION] = Field(
        1, description="times that each of them does so, over all runs"
    )
    hang_on: Annotated[tuple[str, ...], EXECUTION] = Field((), description="ids that never return")
    hang_times: Annotated[Annotated[int, Field(ge=1)] | None, EXECUTION] = Field(
        None, description="times that each does so; default: always"
    )
    fault_dir: Annotated[Path | None, EXECUTION] = Field(
        None, description="where crashes and hangs are counted; shared by all processes"
    )

    @classmethod
    def content(cls, model: ModelConfig) -> str:
        # A whole path would change when the experiment is copied to another folder.
        return Path(model.path).name if is_local_path(model.path) else model.path

    @classmethod
    def size_bytes(cls, model: ModelConfig) -> int | None:
        return int(model.engine_settings.get("memory_bytes", 0))

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
        problem = first["msg"].removeprefix("Value error, ")
        if first["loc"][:1] not in UNSHOWN:
            problem += f", not {first['input']!r}"
        raise ConfigError(
            "no such setting" if unknown else problem[:MAX_MESSAGE],
            where=key,
            remedy=f"settings of the {model.engine} engine are: {', '.join(sorted(kind.model_fields))}",
        ) from error


def secrets_of(model: ModelConfig) -> dict[str, str]:
    """Return the variables of this process's environment that the engine of `model` reads a key from.

    One that is not set here is left out: it may be set where the engine will run.
    """
    name = model.engine_settings.get("api_key_env")
    return {name: os.environ[name]} if isinstance(name, str) and name in os.environ else {}
