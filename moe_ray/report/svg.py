"""From matplotlib figures to SVG text that follows the page's theme and repeats byte for byte."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


INK, MUTED, RULE, PAPER, BAD = "#010203", "#020304", "#030405", "#040506", "#050607"
SERIES = tuple(f"#0a0b{index:02x}" for index in range(8))
MARKERS = ("s", "o", "D", "^", "v", "P", "X", "h")
NUM_OTHERS = len(SERIES) - 1

CSS_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    BAD: "var(--bad)",
} | {colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)}
RC_PARAMS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "moe_ray",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.dpi": 72,
    "path.simplify": False,
    "text.parse_math": False,
}


def theme_colour(index: int) -> str:
    """A stand-in colour for series `index`; the page's style sheet says which it is. Series 0 shares its with none."""
    return SERIES[1 + (index - 1) % NUM_OTHERS if index else 0]


def marker(index: int) -> str:
    """A shape for series `index`, so that colour alone never tells systems apart: the first 50 pairs differ."""
    turn, place = divmod(index - 1, NUM_OTHERS)
    return MARKERS[1 + (place + turn) % NUM_OTHERS if index else 0]


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw in the report's style. All of the report's figures are made within this context.

    They are matplotlib objects with an SVG canvas, so that no display backend is needed. MPLBACKEND is not read: a
    notebook's kernel names one there for its child processes, which matplotlib may not be able to load.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with mpl.rc_context(RC_PARAMS):  # type: ignore[arg-type]
        yield


def svg_text(figure: "Figure", *, name: str, description: str) -> str:
    """Return `figure` as an SVG element to stand inside HTML. `name` makes its ids unique on the page."""
    stream = io.StringIO()
    with drawing_style(), warnings.catch_warnings():
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        # The browser writes the letters, in fonts of its own; here they are only measured.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _themed(_unique_ids(_inline(stream.getvalue(), description), name))


def _inline(text: str, description: str) -> str:
    """The svg element alone, sized by its container, with a name for screen readers."""
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', body)
    assert view is not None
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    opening = f'<svg viewBox="{view[1]}" role="img" aria-label="{label}">'
    return re.sub(r"^<svg[^>]*>", lambda _: opening, body).strip()


def _unique_ids(text: str, name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name)
    name = name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)


def _themed(text: str) -> str:
    for colour, variable in CSS_COLOURS.items():
        text = text.replace(colour, variable)
    return text


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


class PlotRow(NamedTuple):
    """A line of a row plot: a mark, hollow for a bound, and a span from low to high."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    series: int
    is_bound: bool = False


def mark_style(row: PlotRow) -> dict[str, Any]:
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
    rows: Sequence[PlotRow],
    draw: Callable[["Axes", Sequence[PlotRow]], None],
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


def _labels_above(axes: "Axes", rows: Sequence[PlotRow]) -> None:
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


def draw_marks(axes: "Axes", rows: Sequence[PlotRow]) -> None:
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
