"""What every plot of the report shares: a small panel, 1:1 on a telephone, with names beside the marks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from moe_ray.report.svg import MUTED, PAPER, RULE, drawing_style, marker, svg_text, theme_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PANEL_WIDTH_PX = 350
ROW_PX = 26
LONG_ROW_PX = 38
FRAME_PX = 56
LABEL_CHARS = 18
MAX_CHARS = 46
MAX_TICK_STEPS = 6
PX_PER_INCH = 72
LEGEND_FONT_SIZE = 10
LEGEND_ROW_PX = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A panel: an SVG element with its title and a caption that says what it shows."""

    title: str
    caption: str
    svg: str


class Row(NamedTuple):
    """A line of a row plot: a mark, hollow for a bound, and a span from low to high."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    series: int
    is_bound: bool = False


def mark_style(row: Row) -> dict[str, Any]:
    """Colour and shape of a row's mark; rims part a full mark from what lies beneath it."""
    colour = theme_colour(row.series)
    rim: dict[str, Any] = {"markeredgecolor": colour, "markeredgewidth": 2.0} if row.is_bound else {}
    face = PAPER if row.is_bound else colour
    return {"marker": marker(row.series), "markerfacecolor": face, "markeredgecolor": PAPER, "linestyle": ""} | rim


def short(label: str, most: int = MAX_CHARS) -> str:
    """A label that fits the panel's width, or `most` letters: its beginning and its end. Tables hold the whole name."""
    half = most // 2
    return label if len(label) <= most else f"{label[: half - 1]}…{label[-half:]}"


def panel(height_px: float) -> tuple["Figure", "Axes"]:
    """An empty panel of the common width, transparent, with lines at its ticks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PANEL_WIDTH_PX / PX_PER_INCH, height_px / PX_PER_INCH), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    return figure, axes


def rows_panel(
    rows: Sequence[Row],
    draw: Callable[["Axes", Sequence[Row]], None],
    *,
    name: str,
    text: str,
    legend_px: float = 0,
) -> str:
    """One line for each row, its label at the left, or above where one is long; `draw` fills it. Returns the SVG.

    `legend_px` is the height of what stands above the rows.
    """
    is_long = any(len(row.label) > LABEL_CHARS for row in rows)
    with drawing_style():
        figure, axes = panel(FRAME_PX + legend_px + (LONG_ROW_PX if is_long else ROW_PX) * len(rows))
        axes.set_yticks(range(len(rows)), [] if is_long else [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.85 if is_long else -0.6)
        if is_long:
            _labels_above(axes, rows)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        draw(axes, rows)
        return svg_text(figure, name=name, description=text)


def _labels_above(axes: "Axes", rows: Sequence[Row]) -> None:
    """Whole names over their marks, on paper of their own, so that no line of the grid strikes them out."""
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}
    across = axes.get_yaxis_transform()
    for at, row in enumerate(rows):
        name, place = short(row.label), at - 0.46
        axes.text(0.0, place, name, fontsize=LEGEND_FONT_SIZE, transform=across, va="center", bbox=paper)


def few_ticks(axis: "Axis") -> None:
    """So few and such round ticks that their numbers never touch in a panel."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=MAX_TICK_STEPS, steps=[1, 2, 5, 10]))


def draw_marks(axes: "Axes", rows: Sequence[Row]) -> None:
    """A mark for each row, and a bar from low to high."""
    for at, row in enumerate(rows):
        if row.value is None:
            axes.text(0.01, at, "no score", transform=axes.get_yaxis_transform(), color=MUTED, va="center")
            continue
        colour = theme_colour(row.series)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [at, at], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([row.value], [at], markersize=8.5, **mark_style(row))


def legend_above(axes: "Axes", *, num_columns: int) -> None:
    """Names beside their marks, outside of the axes."""
    axes.figure.legend(
        loc="outside upper left",
        ncols=num_columns,
        frameon=False,
        fontsize=LEGEND_FONT_SIZE,
        handletextpad=0.1,
        columnspacing=1,
    )
