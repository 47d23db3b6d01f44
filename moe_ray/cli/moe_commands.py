"""`moe-ray moe`: mixtures inside one checkpoint. Like `cli.main`, it only reads options."""

from pathlib import Path
from typing import Annotated

import typer

moe_app = typer.Typer(help="Make mixtures inside one checkpoint.", no_args_is_help=True, rich_markup_mode=None)


@moe_app.command("train-gate")
def train_gate(
    file: Annotated[
        Path, typer.Argument(help="YAML or JSON: base_model, data by expert, settings.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the gate; a gate that is there is replaced.", show_default=False)
    ],
) -> None:
    """Train the gate of a mixture of fine-tunes, on the prompts' input embeddings, and test it."""
    from moe_ray.cli.moe_gate import train_gate_of_file

    train_gate_of_file(file, out)
