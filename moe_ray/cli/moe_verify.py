"""`moe-ray moe verify`: hold a mixture against its certificate."""

from collections.abc import Sequence
from pathlib import Path

import typer

from moe_ray.cli.failures import EXIT_RUN_FAILED, EXIT_USAGE
from moe_ray.cli.terminal import output_console
from moe_ray.errors import UserError
from moe_ray.moe.verification import verify
from moe_ray.printable import one_line

SIGNS = {True: "holds", False: "DIFFERS", None: "not checked"}
WIDTH = max(map(len, SIGNS.values()))


def verify_mixture(directory: Path, sources: Sequence[str]) -> None:
    """Print what holds of the certificate in `directory`, and what does not.

    Exits with 1 when something does not hold, and with 2 when all that could be checked holds but something could not.
    """
    console = output_console(soft_wrap=True)
    outcomes = set()
    for finding in verify(directory, _moved(sources)):
        console.print(one_line(f"{SIGNS[finding.holds]:{WIDTH}}  {finding.what}: {finding.detail}"))
        outcomes.add(finding.holds)
    if False in outcomes:
        raise typer.Exit(EXIT_RUN_FAILED)
    if None in outcomes:
        raise typer.Exit(EXIT_USAGE)


def _moved(sources: Sequence[str]) -> dict[str, Path]:
    pairs = [source.partition("=") for source in sources]
    wrong = next((source for source, (name, _, path) in zip(sources, pairs, strict=True) if not (name and path)), None)
    if wrong is not None:
        raise UserError(f"{wrong!r} names no source and its path", where="--source", remedy="write --source NAME=PATH")
    return {name: Path(path).expanduser() for name, _, path in pairs}
