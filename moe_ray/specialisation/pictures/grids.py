"""Heatmaps of values around zero, of which only the significant ones are coloured.

Blue is below zero and orange above; a stroke marks what is below, so that a copy in grey can be read. Grey cells are
not significant, hatched ones not tested, and where no cell is there is no such expert.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moe_ray.arrays import BoolArray, FloatArray
from moe_ray.formatting import signed
from moe_ray.specialisation.pictures.canvas import (
    MAX_HEIGHT_PT,
    SMALL_PT,
    TINY_PT,
    WIDTH_PT,
    Inks,
    axes_at,
    blank,
    shown_name,
    tick_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From far below zero to just below, and from just above to far above; equally dark at equal distances.
BELOW = ((8, 64, 129), (158, 202, 225))
ABOVE = ((253, 190, 133), (146, 58, 8))
BAR_PT, MIN_BAR_PT, BAR_ROOM_PT = 8.0, 84.0, 52.0
TITLE_PT, TICKS_PT, GAP_PT = 13.0, 24.0, 10.0
MIN_CELL_PT, MAX_CELL_PT = 23.0, 34.0
MAX_ROW_PT, MIN_ROW_PT = 13.0, 7.5
MAX_LABEL_CHARS = 16
CHAR_PT = 3.9
NUM_STEPS = 40
SCALE_ENDS = (1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
MAX_DESCRIBED = 12


class GridCell(NamedTuple):
    """A value of an expert on a class in a layer. `q_value` is None where it was not tested."""

    layer: int
    label: str
    expert: int
    value: float
    q_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """One panel: `values` [R, C], NaN where there is nothing; `shown` and `tested` [R, C] say which are significant."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: FloatArray
    shown: BoolArray
    tested: BoolArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What colours mean: `unit` at the bar, and the titles of rows and columns."""

    unit: str
    row_title: str
    column_title: str
    digits: int = 1

    def fitting(self, limit: float) -> "Scale":
        """Return the scale with as many decimals as the numbers up to `limit` need."""
        return replace(self, digits=max(self.digits, 1 - math.floor(math.log10(limit)) if limit > 0 else 0))


def grids_by_class(
    cells: Sequence[GridCell], layers: Sequence[tuple[int, str]], experts: Sequence[str], alpha: float
) -> tuple[list[Grid], str]:
    """Return the panels of cells and what their rows are: one per layer, or one per class where layers are many.

    `layers` are numbers and names, `experts` the names of all columns.
    """
    labels = list(dict.fromkeys(cell.label for cell in cells))
    if len(layers) <= 2:
        found = [
            _grid(name if len(layers) > 1 else "", labels, experts, alpha, _placed(cells, layer, None, labels))
            for layer, name in layers
        ]
        return found, "class"
    numbers = [layer for layer, _ in layers]
    names = [name.removeprefix("layer ") for _, name in layers]
    return [_grid(label, names, experts, alpha, _placed(cells, None, label, numbers)) for label in labels], "layer"


def _placed(
    cells: Sequence[GridCell], layer: int | None, label: str | None, rows: Sequence[object]
) -> Iterator[tuple[int, GridCell]]:
    for cell in cells:
        if (layer is None or cell.layer == layer) and (label is None or cell.label == label):
            yield rows.index(cell.label if label is None else cell.layer), cell


def _grid(
    title: str, rows: Sequence[str], columns: Sequence[str], alpha: float, cells: Iterator[tuple[int, GridCell]]
) -> Grid:
    values = np.full((len(rows), len(columns)), np.nan)
    shown, tested = np.zeros(values.shape, dtype=np.bool_), np.zeros(values.shape, dtype=np.bool_)
    for row, cell in cells:
        values[row, cell.expert] = cell.value
        tested[row, cell.expert] = cell.q_value is not None
        shown[row, cell.expert] = cell.q_value is not None and cell.q_value < alpha
    return Grid(title=title, rows=rows, columns=columns, values=values, shown=shown, tested=tested)


class _Layout(NamedTuple):
    """Sizes in points, and how many panels stand beside each other and in one picture."""

    across: int
    per_picture: int
    label: float
    cell: float
    row: float
    ticks: float

    def panel(self, grid: Grid) -> tuple[float, float]:
        return self.cell * len(grid.columns), self.row * len(grid.rows)

    def height(self, grids: Sequence[Grid]) -> float:
        return math.ceil(len(grids) / self.across) * (self.panel(grids[0])[1] + TITLE_PT + self.ticks + GAP_PT)


def _layout(grids: Sequence[Grid]) -> _Layout:
    first = grids[0]
    label = 24 + CHAR_PT * max(min(len(name), MAX_LABEL_CHARS) for name in first.rows)
    room, num_columns = WIDTH_PT - BAR_ROOM_PT - 10, len(first.columns)
    across = max(1, min(len(grids), int(room / (label + num_columns * MIN_CELL_PT))))
    cell = min(MAX_CELL_PT, (room / across - label) / num_columns)
    row = max(MIN_ROW_PT, min(MAX_ROW_PT, 300 / len(first.rows)))
    longest = max(min(len(name), MAX_LABEL_CHARS) for name in first.columns)
    ticks = TICKS_PT + (CHAR_PT * longest if _is_turned(first.columns, cell) else 0)
    down = max(1, int(MAX_HEIGHT_PT / (row * len(first.rows) + TITLE_PT + ticks + GAP_PT)))
    return _Layout(across, across * down, label, cell, row, ticks)


def _is_turned(columns: Sequence[str], cell: float) -> bool:
    """Numbers can be left out; names cannot, and are turned where they are wider than a cell."""
    return any(not name.isdecimal() and len(name) * CHAR_PT > cell for name in columns)


def pictures_of(grids: Sequence[Grid]) -> list[list[Grid]]:
    """Return the panels of each picture, so that none is higher than a page."""
    if not grids:
        return []
    size = _layout(grids).per_picture
    return [list(grids[start : start + size]) for start in range(0, len(grids), size)]


def part_of(at: int, num: int) -> str:
    """Return what a title says of one of several pictures."""
    return f", part {at + 1} of {num}" if num > 1 else ""


def strongest(grids: Sequence[Grid]) -> str:
    """Name the largest significant values, for those who do not see the picture."""
    found = [
        (abs(float(grid.values[row, column])), f"{grid.title} {grid.rows[row]}, expert {grid.columns[column]}: ", value)
        for grid in grids
        for row, column in zip(*np.nonzero(grid.shown), strict=True)
        for value in [float(grid.values[row, column])]
    ]
    found.sort(key=lambda one: -one[0])
    named = "; ".join(f"{name}{signed(value, 2)}" for _, name, value in found[:MAX_DESCRIBED])
    return named or "No value is significant"


def grid_figure(grids: Sequence[Grid], limit: float, scale: Scale, inks: Inks) -> "Figure":
    """Draw panels with one scale from -limit to limit."""
    layout = _layout(grids)
    scale = scale.fitting(limit)
    bar_left = min(layout.across, len(grids)) * (layout.label + layout.panel(grids[0])[0]) + 10
    figure = blank(max(layout.height(grids), TITLE_PT + MIN_BAR_PT + 6), width_pt=bar_left + BAR_ROOM_PT)
    for at, grid in enumerate(grids):
        width, height = layout.panel(grid)
        column, line = at % layout.across, at // layout.across
        left = layout.label + column * (width + layout.label)
        top = TITLE_PT + line * (height + TITLE_PT + layout.ticks + GAP_PT)
        axes = axes_at(figure, inks, (left, top, width, height))
        _draw_grid(axes, grid, layout, limit, scale, inks)
    _draw_bar(figure, (bar_left, TITLE_PT, BAR_PT, MIN_BAR_PT), limit, scale, inks)
    return figure


def limit_of(grids: Sequence[Grid]) -> float:
    """Return the end of the scale: the largest significant value, rounded up to a number whose half is short."""
    largest = max((float(np.abs(grid.values[grid.shown]).max()) for grid in grids if grid.shown.any()), default=1.0)
    power = 10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
    return next(end for end in SCALE_ENDS if end >= round(largest / power, 9)) * power


def colour_of(value: float, limit: float) -> tuple[float, float, float]:
    """Return the colour of a value, the same for all themes."""
    size = min(1.0, abs(value) / limit) if limit else 0.0
    far, near = (BELOW[0], BELOW[1]) if value < 0 else (ABOVE[1], ABOVE[0])
    red, green, blue = ((n + size * (f - n)) / 255 for f, n in zip(far, near, strict=True))
    return red, green, blue


def _luminance(colour: tuple[float, float, float]) -> float:
    red, green, blue = colour
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _draw_grid(axes: "Axes", grid: Grid, layout: _Layout, limit: float, scale: Scale, inks: Inks) -> None:
    edge = 0.6 if layout.cell > 12 else 0.3
    is_known = np.isfinite(grid.values)
    common: dict[str, Any] = {"edgecolors": inks.paper, "linewidths": edge}
    _draw_cells(axes, is_known & ~grid.shown & grid.tested, facecolors=inks.rule, alpha=0.6, **common)
    _draw_cells(axes, is_known & ~grid.tested, facecolors="none", edgecolors=inks.rule, linewidths=0, hatch="////")
    shown = is_known & grid.shown
    values = grid.values[shown].tolist()
    _draw_cells(axes, shown, facecolors=[colour_of(value, limit) for value in values], **common)
    if layout.cell >= MIN_CELL_PT - 2 and layout.row >= 9:
        for (row, column), value in zip(np.argwhere(shown).tolist(), values, strict=True):
            letters = "#ffffff" if _luminance(colour_of(value, limit)) < 0.45 else "#000000"
            text = tick_number(value, scale.digits)
            axes.text(column, row, text, color=letters, fontsize=TINY_PT, ha="center", va="center_baseline")
    else:
        _draw_strokes(axes, shown & (grid.values < 0))
    _label_grid(axes, grid, layout, scale)


def _draw_cells(axes: "Axes", where: BoolArray, **style: Any) -> None:
    from matplotlib.collections import PolyCollection

    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    places = np.argwhere(where)[:, ::-1]
    if len(places):
        axes.add_collection(PolyCollection(places[:, None] + corners, **style), autolim=False)


def _draw_strokes(axes: "Axes", where: BoolArray) -> None:
    """Mark cells below zero, for copies in grey."""
    from matplotlib.collections import LineCollection

    ends = np.array([(-0.22, 0.0), (0.22, 0.0)])
    places = np.argwhere(where)[:, ::-1]
    if len(places):
        strokes = LineCollection(list(places[:, None] + ends), colors="#ffffff", linewidths=1.1)
        axes.add_collection(strokes, autolim=False)


def _label_grid(axes: "Axes", grid: Grid, layout: _Layout, scale: Scale) -> None:
    num_rows, num_columns = grid.values.shape
    axes.set_xlim(-0.5, num_columns - 0.5)
    axes.set_ylim(num_rows - 0.5, -0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, pad=2)
    is_turned = _is_turned(grid.columns, layout.cell)
    every = 1 if is_turned else _every(layout.cell, CHAR_PT * max(len(name) for name in grid.columns) + 3)
    columns = range(0, num_columns, every)
    names = [shown_name(grid.columns[at], MAX_LABEL_CHARS) for at in columns]
    axes.set_xticks(list(columns), names, rotation=90 if is_turned else 0)
    rows = range(0, num_rows, _every(layout.row, SMALL_PT))
    axes.set_yticks(list(rows), [shown_name(grid.rows[at], MAX_LABEL_CHARS) for at in rows])
    axes.set_xlabel(scale.column_title, labelpad=1, fontsize=SMALL_PT)
    if grid.rows[0].isdecimal():
        axes.set_ylabel(scale.row_title, labelpad=2, fontsize=SMALL_PT)
    axes.set_title(shown_name(grid.title, 40), loc="left", pad=3, fontweight="bold", fontsize=SMALL_PT)


def _every(cell: float, needed: float) -> int:
    """Return how many cells to go from label to label: 1, 2, 4, 8 ..."""
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 4096) if step * cell >= needed)


def _draw_bar(
    figure: "Figure", place: tuple[float, float, float, float], limit: float, scale: Scale, inks: Inks
) -> None:
    from matplotlib.patches import Rectangle

    left, top, width, height = place
    axes = axes_at(figure, inks, (left, top, width, height))
    step = 2 * limit / NUM_STEPS
    for at in range(NUM_STEPS):
        low = -limit + at * step
        colour = colour_of(low + step / 2, limit)
        axes.add_patch(Rectangle((0, low), 1, step, facecolor=colour, edgecolor=colour, linewidth=0.2))
    axes.plot([0.2, 0.8], [-limit / 2] * 2, color="#ffffff", linewidth=1.1)
    axes.set_xlim(0, 1)
    axes.set_ylim(-limit, limit)
    axes.set_xticks([])
    ticks = [-limit, -limit / 2, 0.0, limit / 2, limit]
    axes.yaxis.tick_right()
    axes.set_yticks(ticks, [tick_number(tick, scale.digits) for tick in ticks])
    axes.tick_params(labelsize=TINY_PT, pad=1)
    axes.set_ylabel(scale.unit, fontsize=SMALL_PT, labelpad=4)
    axes.yaxis.set_label_position("right")
    for side in axes.spines.values():
        side.set_visible(False)
