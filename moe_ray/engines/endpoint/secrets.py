"""Keys of endpoints: named in the experiment, kept in the environment, written nowhere. Imports no engine."""

import os

from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ConfigError

API_KEY_SETTING = "api_key_env"


def secrets_of(model: ModelConfig) -> dict[str, str]:
    """Return the variables of this process's environment that the engine of `model` reads a key from.

    One that is not set here is left out: it may be set where the engine will run.
    """
    name = model.engine_settings.get(API_KEY_SETTING)
    return {name: os.environ[name]} if isinstance(name, str) and name in os.environ else {}


def api_key(name: str | None) -> str | None:
    """Return the key in the environment variable `name`, None without a name; raises `ConfigError` when it is empty."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {name} is not set, neither where the run was started nor where the model runs",
            where=f"engine_settings.{API_KEY_SETTING}",
            remedy=f"export {name}=... before moe-ray evaluate, or on every node; or remove {API_KEY_SETTING}",
        )
    return key
