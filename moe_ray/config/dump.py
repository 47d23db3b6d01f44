"""Experiment files written: the resolved configuration, the starter file and the JSON Schema."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from moe_ray.config.schema import ExperimentConfig
from moe_ray.config.tree import add_core_resolvers

_WIDTH = 110


class CoreDumper(yaml.SafeDumper):
    """Quotes all text that YAML 1.1 or YAML 1.2 would read as something else, and writes lines as lines."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


add_core_resolvers(CoreDumper)
CoreDumper.add_representer(str, _text)


def dump_experiment(config: ExperimentConfig) -> str:
    """Return `config` as YAML with every default written out, in the order of the schema.

    `load_experiment` reads an equal experiment from it, wherever it lies, once its paths are absolute.
    """
    values: dict[str, Any] = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


def starter_text() -> str:
    """Return a complete experiment as YAML, with a comment for each key. It loads as it is."""
    return files("moe_ray.config").joinpath("starter.yaml").read_text(encoding="utf-8")


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
