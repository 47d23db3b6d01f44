"""The `engine_settings` of the engines that speak the OpenAI API. No heavy imports, so that `plan` can check them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.server.process import names, require_template
from moe_ray.engines.settings import (
    CHAT_TEMPLATE_KWARGS,
    EXECUTION,
    NAMED_BY_IDENTITY,
    EngineSettings,
    parse_settings,
)
from moe_ray.errors import ConfigError

OWN_BODY_KEYS = frozenset((
    "model", "messages", "prompt", "stream", "stream_options", "stop", "seed", "temperature", "top_p",
    "max_tokens", "max_completion_tokens", "n", "best_of", "echo", "logprobs", "prompt_logprobs",
))  # fmt: skip
DECIDED_BY_THE_ENDPOINT = ("revision", "tokenizer", "dtype", "quantization", "overflow", "trust_remote_code")
DECIDED_BY_THE_COMMAND = ("quantization", "overflow", "trust_remote_code")
CARRIED_BY_THE_COMMAND = ("revision", "tokenizer", "dtype")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
ApiSettingsT = TypeVar("ApiSettingsT", bound="ApiSettings")


class ApiSettings(EngineSettings):
    """Settings of every engine that speaks the OpenAI API: how fast it may ask, and how long it waits."""

    gives_logprobs: ClassVar[bool] = True

    api_key_env: Annotated[str | None, EXECUTION] = Field(
        None, description="NAME of the environment variable that holds the key; the key itself is written nowhere"
    )
    identity: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="replaces in the fingerprint the base_url (endpoint) or for command and env (server)"
    )
    max_concurrent_requests: Annotated[int, Field(ge=1, le=1024), EXECUTION] = 16
    requests_per_minute: Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, EXECUTION] = Field(
        None, description="requests that each replica of the model starts at most, retries included"
    )
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False), EXECUTION] = Field(
        600.0, description="a request without its whole answer after so long is tried again"
    )
    max_retries: Annotated[int, Field(ge=0, le=100), EXECUTION] = 6
    stream: bool = Field(
        True, description="ask for streams where the API supports them: they give the time to the first token"
    )
    max_tokens_key: Annotated[Literal["max_tokens", "max_completion_tokens"], EXECUTION] = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict, description="further keys of every request's body")

    def api_key(self) -> str | None:
        """Return the key, None where none is configured. Raises `ConfigError` when its variable is not set here."""
        name = self.api_key_env
        if name is None:
            return None
        if key := os.environ.get(name, "").strip():
            return key
        raise ConfigError(
            f"the environment variable {name} is not set, neither where the run was started nor where the model runs",
            where="engine_settings.api_key_env",
            remedy=f"export {name}=... before moe-ray evaluate, or on every node; or remove api_key_env",
        )

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
    """Settings of the endpoint engine: an API that runs elsewhere."""

    needs_gpu: ClassVar[bool] = False
    where_it_runs: ClassVar[str] = "its endpoint does the work"
    has_files: ClassVar[bool] = False

    base_url: Annotated[str, NAMED_BY_IDENTITY] = Field(description="where the API is, such as http://host:8000/v1")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url begins with http:// or https:// and names a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("base_url holds no user, password or query: a key belongs into api_key_env")
        return url.rstrip("/")

    @classmethod
    def require_meaning(cls, model: ModelConfig) -> None:
        _require_defaults(model, DECIDED_BY_THE_ENDPOINT, "the endpoint alone decides it")
        if model.gpus not in ("auto", 0):
            raise ConfigError("an endpoint takes no GPU of this cluster", where="gpus", remedy="remove it")


class ServerSettings(ApiSettings):
    """Settings of the server engine: a server that the replica starts, asks and stops."""

    shares_gpu: ClassVar[bool] = False
    reads_single_files: ClassVar[bool] = True

    command: Annotated[str, NAMED_BY_IDENTITY] = Field(
        description="what starts it; {path}, {port}, {host}, {model}, {num_gpus}, ... are filled in"
    )
    health: Annotated[str, Field(pattern="^/"), EXECUTION] = Field(
        "/health", description="answers 200 once the server is ready"
    )
    model: str | None = Field(None, description="the model's name as the server knows it; default: its path")
    start_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False), EXECUTION] = 1500.0
    # A replica's departure is waited for at most a minute.
    stop_timeout_s: Annotated[float, Field(ge=0, le=45), EXECUTION] = Field(8.0, description="from SIGTERM to SIGKILL")
    env: Annotated[dict[str, str], NAMED_BY_IDENTITY] = Field(
        default_factory=dict, description="added to its environment; no secrets, they are kept"
    )
    log_dir: Annotated[Path | None, EXECUTION] = Field(
        None, description="where its log goes; default: server-logs in the cache folder"
    )

    @field_validator("command")
    @classmethod
    def _can_be_filled_in(cls, command: str) -> str:
        require_template(command)
        return command

    @classmethod
    def reads_path(cls, model: ModelConfig) -> bool:
        return names("path", model.engine_settings["command"])

    @classmethod
    def require_meaning(cls, model: ModelConfig) -> None:
        _require_defaults(model, DECIDED_BY_THE_COMMAND, "an option of the server in engine_settings.command does it")
        command = model.engine_settings["command"]
        unsaid = [key for key in CARRIED_BY_THE_COMMAND if not names(key, command)]
        _require_defaults(model, unsaid, "or let engine_settings.command carry it, with its name in braces")


def _require_defaults(model: ModelConfig, keys: Iterable[str], remedy: str) -> None:
    for key in keys:
        if getattr(model, key) != type(model).model_fields[key].default:
            raise ConfigError(
                f"{key} has no effect with engine {model.engine}", where=key, remedy=f"remove {key}; {remedy}"
            )


def parse_api_settings(kind: type[ApiSettingsT], model: ModelConfig) -> ApiSettingsT:
    """Return the settings of an engine that asks an API; every request's body carries `chat_template_kwargs`."""
    settings = parse_settings(kind, model)
    if not model.chat_template_kwargs:
        return settings
    body = {**settings.extra_body, CHAT_TEMPLATE_KWARGS: dict(model.chat_template_kwargs)}
    return settings.model_copy(update={"extra_body": body})
