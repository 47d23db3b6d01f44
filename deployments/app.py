"""The import path of `serve run deployments.app:build target=FILE|RUN`, and of the YAML files beside it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from moe_ray.runs import serve


class Arguments(BaseModel):
    """Arguments of the application: an experiment file or a run directory, and overrides as `--set` takes them."""

    model_config = ConfigDict(extra="forbid")

    target: Path
    overrides: tuple[str, ...] = ()
    trust: bool = False


def build(args: Arguments) -> Any:
    """Return the application."""
    return serve.build(args.target, args.overrides, trust=args.trust)
