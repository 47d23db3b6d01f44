"""Keys of a model that mean nothing to its engine are refused, so that nobody believes that they were obeyed."""

from collections.abc import Iterable

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.server.command import names
from moe_ray.engines.settings import CHAT_TEMPLATE_KWARGS
from moe_ray.errors import ConfigError

# Arguments of transformers' apply_chat_template that are no switches of a template.
OWN_TEMPLATE_ARGUMENTS = frozenset(
    {
        "conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
        "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)  # fmt: skip
DECIDED_BY_THE_ENDPOINT = ("revision", "tokenizer", "dtype", "quantization", "overflow", "trust_remote_code")
DECIDED_BY_THE_COMMAND = ("quantization", "overflow", "trust_remote_code")
CARRIED_BY_THE_COMMAND = ("revision", "tokenizer", "dtype")


def require_meaning(model: ModelConfig) -> None:
    """Raise `ConfigError` for a key of `model` that its engine could not follow. `where` is the key."""
    _require_switches_of_a_template(model)
    if model.engine == "endpoint":
        _require_defaults(model, DECIDED_BY_THE_ENDPOINT, "the endpoint alone decides it")
        if model.gpus not in ("auto", 0):
            raise ConfigError("an endpoint takes no GPU of this cluster", where="gpus", remedy="remove it")
    elif model.engine == "server":
        _require_defaults(model, DECIDED_BY_THE_COMMAND, "an option of the server in engine_settings.command does it")
        command = model.engine_settings["command"]
        unsaid = [key for key in CARRIED_BY_THE_COMMAND if not names(key, command)]
        _require_defaults(model, unsaid, "or let engine_settings.command carry it, with its name in braces")


def _require_switches_of_a_template(model: ModelConfig) -> None:
    key, switches = CHAT_TEMPLATE_KWARGS, model.chat_template_kwargs
    if switches and model.prompt_style == "completion":
        raise ConfigError(
            "a completion goes through no chat template", where=key, remedy=f"remove {key}, or use prompt_style: chat"
        )
    if taken := sorted(OWN_TEMPLATE_ARGUMENTS & switches.keys()):
        raise ConfigError(f"{', '.join(taken)} follow from the experiment", where=key, remedy=f"remove {taken[0]}")
    if switches and key in model.engine_settings.get("extra_body", {}):
        raise ConfigError("given twice: engine_settings.extra_body has it too", where=key, remedy="remove one of them")


def _require_defaults(model: ModelConfig, keys: Iterable[str], remedy: str) -> None:
    for key in keys:
        if getattr(model, key) != type(model).model_fields[key].default:
            raise ConfigError(
                f"{key} has no effect with engine {model.engine}", where=key, remedy=f"remove {key}; {remedy}"
            )
