"""The command `moe-ray doctor`: its options."""

from pathlib import Path
from typing import Annotated

import typer

from moe_ray.cli import options as o


def add_doctor(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(_doctor)


def _doctor(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="An experiment file: check what it needs, too.")
    ] = None,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Check every node of this SLURM job, or of the Ray cluster that is named.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    explain: Annotated[
        str | None, typer.Option(metavar="ID", help="Print what a check finds and why it matters; all: list them.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for warnings too.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds that a check may take.")] = 5.0,
    set_: o.Set = None,
    results_dir: o.ResultsDir = None,
) -> None:
    """Check what would keep a run from working here. Changes nothing, and asks no outside network.

    Exit codes: 0 ready, or warnings only; 1 failures; 2 it could not look.
    """
    from moe_ray.cli import doctor as shown

    if explain is not None:
        shown.explain(explain, as_json=as_json)
        return
    code = shown.show_doctor(
        file, set_ or [], results_dir, nodes=nodes, as_json=as_json, strict=strict, limit_s=timeout
    )
    raise typer.Exit(code)
