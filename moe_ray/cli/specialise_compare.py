"""`moe-ray specialise compare`: traces of runs, checkpoints or seeds beside each other."""

from collections.abc import Sequence
from pathlib import Path

from moe_ray.cli.terminal import output_console
from moe_ray.errors import UserError
from moe_ray.specialisation.compared.records import ComparisonReport
from moe_ray.specialisation.compared.tables import (
    comparison_lines,
    expert_table,
    layer_difference_table,
    match_table,
    rows_of,
)
from moe_ray.specialisation.compared.traces import NamedTrace, compare_traces
from moe_ray.specialisation.pictures.canvas import require_folder_or_nothing, write_pictures
from moe_ray.specialisation.pictures.matches import match_picture
from moe_ray.specialisation.records import read_trace


def show_comparison(
    paths: Sequence[Path], *, layers: str | None, top: int, as_json: bool, pictures: Path | None
) -> None:
    """Compare traces with the first one, and print what differs."""
    pairs = () if layers is None else pairs_of(layers)
    if pictures is not None:
        require_folder_or_nothing(pictures)
    report = compare_traces([NamedTrace(name=str(path), trace=read_trace(path)) for path in paths], layers=pairs)
    written = ""
    if pictures is not None:
        drawn = [match_picture(found, at) for at, found in enumerate(report.comparisons, start=1)]
        written = f"Pictures: {pictures} ({write_pictures(pictures, drawn)})"
    if as_json:
        output_console(soft_wrap=True).print(report.model_dump_json(indent=2))
        return
    _print(report, top, written)


def pairs_of(listing: str) -> tuple[tuple[int, int], ...]:
    """Return the pairs of "0:0,7:15". Raises `UserError`."""
    found = []
    for part in listing.split(","):
        one, colon, two = part.strip().partition(":")
        if not (colon and one.isdecimal() and two.isdecimal()):
            raise UserError(f"{part!r} is not a pair of layers", where="--layers", remedy="give A:B, such as 0:0,7:15")
        found.append((int(one), int(two)))
    repeated = len({a for a, _ in found}) < len(found) or len({b for _, b in found}) < len(found)
    if repeated:
        raise UserError(f"{listing!r} names a layer twice", where="--layers", remedy="pair each layer once")
    return tuple(found)


def _print(report: ComparisonReport, top: int, written: str) -> None:
    console = output_console()
    for found in report.comparisons:
        for table in (match_table(found), layer_difference_table(found), expert_table(found, top)):
            console.print(table)
        num_left = len(rows_of(found)) - top
        if num_left > 0:
            console.print(f"... and {num_left} more: --top, or --json", soft_wrap=True)
        for line in comparison_lines(found):
            console.print(line, soft_wrap=True)
    if written:
        console.print(written, soft_wrap=True)
