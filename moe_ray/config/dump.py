"""The resolved experiment as YAML, as a run directory keeps it."""

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
