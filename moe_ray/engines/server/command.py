"""The command template of a managed server: `vllm serve {path} --host {host} --port {port}`. Starts nothing."""

import re
import shlex
from collections.abc import Mapping

PLACEHOLDERS = ("path", "port", "host", "model", "dtype", "revision", "tokenizer", "num_gpus")

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def require_template(template: str) -> None:
    """Raise `ValueError` unless `template` can be split as a shell would, and has {port} and no unknown placeholder."""
    words = shlex.split(template)
    if not words:
        raise ValueError("the command is empty")
    unknown = [name for name in _PLACEHOLDER.findall(template) if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"{{{unknown[0]}}} is no placeholder; there are {known}")
    if not names("port", template):
        raise ValueError("the command must tell the server its port: {port}")
    if words[0].startswith("."):
        raise ValueError("a program is named by a name on PATH, or by its whole path: it starts on any node")


def names(placeholder: str, template: str) -> bool:
    """Say whether `template` has a place for `placeholder`."""
    return placeholder in _PLACEHOLDER.findall(template)


def filled_in(template: str, values: Mapping[str, str]) -> list[str]:
    """Return the words of the command. Values are filled in after splitting, so that they may hold anything."""
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in shlex.split(template)]
