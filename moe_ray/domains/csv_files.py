"""Records of a CSV or TSV file, with the delimiter that its header shows."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moe_ray.domains.base import Record
from moe_ray.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_rows(text: str, path: Path) -> list[Record]:
    """Return the rows below the header; every value is a text. Blank lines are skipped.

    A `.tsv` file has tabs between its cells. In another file the delimiter is the one that cuts the header into most
    cells; commas where two cut it into as many. Raises `DataError` naming the line of what is malformed.
    """
    with _cells_of_any_size(text):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _require_names(header, path)
            return [_record(header, row, delimiter, f"{path}:{reader.line_num}") for row in reader if row]
        except csv.Error as error:
            raise DataError(
                f"malformed CSV: {error}",
                where=f"{path}:{reader.line_num}",
                remedy="correct the quotes of that row: a cell that holds quotes is quoted, and its quotes are doubled",
            ) from error


@contextmanager
def _cells_of_any_size(text: str) -> Iterator[None]:
    """Lift the 131,072 characters that the csv module allows a cell, which whole documents exceed."""
    before = csv.field_size_limit(max(len(text), 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str) -> str:
    def num_cells(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=num_cells)


def _require_names(header: Sequence[str], path: Path) -> None:
    twice = next((name for name, number in Counter(header).items() if number > 1), None)
    if twice is not None:
        raise DataError(
            f"two columns are called {twice!r}" if twice else "two columns have no name",
            where=f"{path}:1",
            remedy="give each column of the header a name of its own",
        )


def _record(header: Sequence[str], row: Sequence[str], delimiter: str, where: str) -> dict[str, Any]:
    if len(row) != len(header):
        raise DataError(
            f"the row has {len(row)} cells and the header {len(header)}: another number of cells",
            where=where,
            remedy=f"quote cells that hold {NAMES[delimiter]}, which stand between the cells here",
        )
    return dict(zip(header, row, strict=True))
