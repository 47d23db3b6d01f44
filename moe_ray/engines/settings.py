"""What `engine_settings` may say, for each engine that ships. Needs no heavy import, so that `plan` can check it."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.server.process import require_template
from moe_ray.errors import ConfigError

MAX_MESSAGE = 300
# Settings whose wrong values may be a secret, or a mapping that repeats the whole section.
CHAT_TEMPLATE_KWARGS = "chat_template_kwargs"
UNSHOWN = (("api_key_env",), ("base_url",), ("env",), ("extra_body",))
OWN_BODY_KEYS = frozenset(
    {
        "model", "messages", "prompt", "stream", "stream_options", "stop", "seed", "temperature", "top_p",
        "max_tokens", "max_completion_tokens", "n", "best_of", "echo", "logprobs", "prompt_logprobs",
    }
)  # fmt: skip
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SettingsT = TypeVar("SettingsT", bound="EngineSettings")
ApiSettingsT = TypeVar("ApiSettingsT", bound="ApiSettings")


class EngineSettings(BaseModel):
    """Base: unknown settings are refused, and read settings do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TransformersSettings(EngineSettings):
    """Settings of the transformers engine."""

    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None, description="attention implementation; default: what transformers chooses for the architecture"
    )
    batching: Literal["auto", "static", "continuous"] = Field(
        "auto",
        description="greedy rows: static, the engine's own batches; continuous, transformers' paged cache; auto: "
        "continuous on a GPU with flash attention. Rows above temperature 0 always run in the engine's own batches",
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


class ApiSettings(EngineSettings):
    """Settings of every engine that speaks the OpenAI API: how fast it may ask, and how long it waits."""

    api_key_env: str | None = Field(
        None, description="NAME of the environment variable that holds the key; the key itself is written nowhere"
    )
    identity: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="stands in the fingerprint for the base_url (endpoint) or for command and env (server)"
    )
    max_concurrent_requests: Annotated[int, Field(ge=1, le=1024)] = 16
    requests_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="requests that each replica of the model starts at most, retries included"
    )
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        600.0, description="a request without its whole answer after so long is tried again"
    )
    max_retries: Annotated[int, Field(ge=0, le=100)] = 6
    stream: bool = Field(
        True, description="ask for streams where the API knows them: they tell when the first token came"
    )
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict, description="further keys of every request's body")

    @field_validator("api_key_env")
    @classmethod
    def _a_name_and_no_key(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError("it is the NAME of an environment variable (capitals, digits, _), never the key itself")
        return name

    @field_validator("extra_body")
    @classmethod
    def _no_key_of_ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OWN_BODY_KEYS & extra.keys()):
            raise ValueError(f"{', '.join(taken)} follow from the experiment and cannot be set here")
        return extra


class EndpointSettings(ApiSettings):
    """Settings of the endpoint engine: a server of somebody else's."""

    base_url: str = Field(description="where the API is, such as http://host:8000/v1")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url begins with http:// or https:// and names a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("base_url holds no user, password or query: a key belongs into api_key_env")
        return url.rstrip("/")


class ServerSettings(ApiSettings):
    """Settings of the server engine: a server that the replica starts, asks and stops."""

    command: str = Field(description="what starts it; {path}, {port}, {host}, {model}, {num_gpus}, ... are filled in")
    health: Annotated[str, Field(pattern="^/")] = Field("/health", description="answers 200 once the server is ready")
    model: str | None = Field(None, description="the model's name as the server knows it; default: its path")
    start_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1500.0
    # A replica's departure is waited for at most a minute.
    stop_timeout_s: Annotated[float, Field(ge=0, le=45)] = Field(8.0, description="from SIGTERM to SIGKILL")
    env: dict[str, str] = Field(default_factory=dict, description="added to its environment; no secrets, they are kept")
    log_dir: Path | None = Field(None, description="where its log goes; default: server-logs in the cache folder")

    @field_validator("command")
    @classmethod
    def _can_be_filled_in(cls, command: str) -> str:
        require_template(command)
        return command


def parse_api_settings(kind: type[ApiSettingsT], model: ModelConfig) -> ApiSettingsT:
    """Return the settings of an engine that asks an API; every request's body carries `chat_template_kwargs`."""
    settings = parse_settings(kind, model)
    if not model.chat_template_kwargs:
        return settings
    body = {**settings.extra_body, CHAT_TEMPLATE_KWARGS: dict(model.chat_template_kwargs)}
    return settings.model_copy(update={"extra_body": body})


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
