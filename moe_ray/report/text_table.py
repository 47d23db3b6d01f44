"""Tables of plain text for the terminal."""

from typing import Any, TypeVar

from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from moe_ray.characters import one_line

LineT = TypeVar("LineT", bound=RenderableType)


class TextTable(Table):
    """A table whose headings and cells are single lines of printable text, never markup.

    A style is given with `rich.text.Text`, one for each cell; spans within a cell are kept where nothing is escaped.
    """

    def __init__(self, *, title: str | Text | None = None, caption: str | None = None, **options: Any) -> None:
        super().__init__(
            title=None if title is None else _line(title),
            caption=None if caption is None else _line(caption),
            **options,
        )

    def add_column(self, header: RenderableType = "", *args: object, **options: object) -> None:
        """Add a column, with a heading of one line."""
        super().add_column(_line(header), *args, **options)  # type: ignore[arg-type]

    def add_row(
        self, *cells: RenderableType | None, style: str | Style | None = None, end_section: bool = False
    ) -> None:
        """Add a row, with cells of one line each."""
        lines = (None if cell is None else _line(cell) for cell in cells)
        super().add_row(*lines, style=style, end_section=end_section)


def _line(cell: LineT) -> LineT | Text:
    if isinstance(cell, str):
        return Text(one_line(cell))
    if isinstance(cell, Text) and cell.plain != one_line(cell.plain):
        return Text(one_line(cell.plain), style=cell.style)
    return cell
