"""The experiment file's JSON Schema, as it ships beside this module: editors complete and check keys with it."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from moe_ray.config.schema import ExperimentConfig

SCHEMA_FILE = "experiment.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def experiment_schema() -> dict[str, Any]:
    """Return the schema of the keys as they are defined now."""
    return {"$schema": DIALECT, **ExperimentConfig.model_json_schema()}


def schema_text() -> str:
    """Return the schema as the text of `SCHEMA_FILE`."""
    return json.dumps(experiment_schema(), indent=2) + "\n"


def schema_uri() -> str:
    """Return the address of the file that ships, for an editor on this machine."""
    return Path(str(files("moe_ray.config").joinpath(SCHEMA_FILE))).absolute().as_uri()
