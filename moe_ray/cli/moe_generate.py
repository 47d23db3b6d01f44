"""`moe-ray moe generate`: text from a mixture, and each expert's probability."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moe_ray.characters import one_line
from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.config.load import parse_section
from moe_ray.domains.sources import read_text
from moe_ray.errors import ConfigError
from moe_ray.formatting import number
from moe_ray.moe.generation import GenerateSettings, Written, write
from moe_ray.routing.router import readable

# Options for greedy and sampled text: an option of one kind overrides the other kind in the file.
GREEDY, SAMPLED = ("greedy",), ("temperature", "top_p")


def generate_text(directory: Path, config: Path | None, options: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the answer of the mixture in `directory`, and the gate's probabilities for the prompt.

    `options` that are not None override the file `config`.
    """
    settings = _settings(config, {name: value for name, value in options.items() if value is not None})
    if settings.prompt is None:
        raise ConfigError("no prompt", where="--prompt", remedy="give --prompt TEXT, or prompt in the --config file")
    try:
        written = write(directory, settings.prompt, settings)
    except ConfigError as error:
        error.where = (error.where or "").replace("engine_settings.", "--")
        error.remedy = (error.remedy or "").replace("engine_settings.", "--")
        raise
    console = output_console(soft_wrap=True)
    if as_json:
        console.print(json.dumps({"prompt": settings.prompt, **asdict(written)}))
    else:
        _show(console, written)


def _settings(config: Path | None, options: Mapping[str, Any]) -> GenerateSettings:
    given: dict[str, Any] = {}
    if config is not None:
        given = parse_section(read_text(config), str(config), GenerateSettings).model_dump(exclude_unset=True)
    for ours, theirs in ((GREEDY, SAMPLED), (SAMPLED, GREEDY)):
        if options.keys() & set(ours):
            given = {name: value for name, value in given.items() if name not in theirs}
    try:
        return GenerateSettings.model_validate({**given, **options})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "greedy"
        what = first["msg"].removeprefix("Value error, ")
        raise ConfigError(what, where=f"--{name.replace('_', '-')}", remedy="change that option") from error


def _show(console: Terminal, written: Written) -> None:
    if written.reasoning is not None:
        console.print(readable(written.reasoning))
        console.print()
    console.print(readable(written.text))
    console.print()
    if written.probabilities is None:
        console.print(written.no_gate)
    else:
        shares = ", ".join(f"{name} {number(share)}" for name, share in written.probabilities.items())
        console.print(one_line(f"gate: {shares}"))
    if written.expert is not None:
        console.print(f"Expert {written.expert} answered alone.")
