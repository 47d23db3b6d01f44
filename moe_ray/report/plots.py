"""Plots of quality, and of quality against cost."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from moe_ray.comparison.records import MetricValue, Summary
from moe_ray.formatting import NO_BREAK, interval, listed, number, seconds
from moe_ray.report.svg import (
    LEGEND_ROW_PX,
    RULE,
    Plot,
    PlotRow,
    draw_marks,
    drawing_style,
    few_ticks,
    legend_above,
    mark_style,
    panel,
    rows_panel,
    short,
    svg_text,
    theme_colour,
)
from moe_ray.report.views import DomainView, MetricView, SystemRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COST_PX = 240
MAX_CHARS_BY_COLUMNS = {3: 12, 2: 22}


class Point(NamedTuple):
    """A system's quality against what one example costs it."""

    row: PlotRow
    quality: float
    busy_s: float


def quality_plot(view: DomainView, metric: MetricView) -> Plot:
    """A mark with its 95 % interval for each system."""
    rows = [_mark(row, value) for row, value in metric.values]
    counts = _counts([value.n for _, value in metric.values])
    bars = f"bars are 95{NO_BREAK}% intervals, {counts} examples.{hollow(rows)}"
    caption = f"{metric.title} on {view.name}, {metric.better}; {bars}"
    described = "; ".join(f"{row.label} {number(row.value)} {interval(row.low, row.high)}" for row in rows)

    def draw(axes: "Axes", rows: Sequence[PlotRow]) -> None:
        draw_marks(axes, rows)
        axes.set_xlim(*_limits(rows))
        few_ticks(axes.xaxis)
        axes.set_xlabel(f"{metric.title}{f' ({metric.unit})' if metric.unit else ''}")

    name = f"quality-{view.name}-{metric.name}"
    return Plot(
        title=metric.title, caption=caption, svg=rows_panel(rows, draw, name=name, text=f"{caption} {described}")
    )


def _mark(row: SystemRow, value: MetricValue) -> PlotRow:
    return PlotRow(row.title, value.value, value.low, value.high, row.series, bool(row.bound))


def hollow(rows: Sequence[PlotRow]) -> str:
    """What hollow marks are, where there are any; with a space before."""
    names = listed([row.label for row in rows if row.is_bound])
    return f" Hollow marks, for comparison only: {names}." if names else ""


def _counts(counts: Sequence[int]) -> str:
    """ "n = 50", "n = 49 to 50"."""
    ends = dict.fromkeys(str(end) for end in (min(counts), max(counts)))
    return f"n{NO_BREAK}={NO_BREAK}{' to '.join(ends)}"


def _limits(rows: Sequence[PlotRow]) -> tuple[float, float]:
    """Shares from 0 to 1 (or to the highest), so that panels can be held side by side; others where they lie."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    highest, lowest = max(ends, default=1.0), min(ends, default=0.0)
    if lowest >= 0 and highest <= 1:
        top = 1.02 if highest > 0.5 else max(highest * 1.08, 0.02)
        return (-0.02 * top, top)
    margin = 0.12 * (highest - lowest) or 0.1 * abs(highest)
    return (lowest - margin, highest + margin)


def cost_plot(summary: Summary, view: DomainView) -> Plot | None:
    """Quality of the domain's first metric against what one example costs."""
    metric = view.metrics[0]
    points = [
        Point(_mark(row, value), value.value, cost.busy_s)
        for row, value in metric.values
        if (cost := summary.cost(row.system, view.name)) is not None and value.value is not None
    ]
    if not points:
        return None
    described = "; ".join(f"{row.label} {seconds(busy_s)}, {number(quality)}" for row, quality, busy_s in points)
    against = f"{metric.title} ({metric.better}) against compute time per example"
    counts = _counts([value.n for _, value in metric.values])
    bounds = hollow([point.row for point in points])
    caption = f"{against}; bars are 95{NO_BREAK}% intervals, {counts} examples.{bounds}"
    longest = max(len(point.row.label) for point in points)
    num_columns = next((num for num, most in MAX_CHARS_BY_COLUMNS.items() if longest <= most), 1)
    with drawing_style():
        figure, axes = panel(COST_PX + LEGEND_ROW_PX * math.ceil(len(points) / num_columns))
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        _draw_points(axes, points)
        legend_above(axes, num_columns=num_columns)
        axes.set_xlim(left=0, right=max(point.busy_s for point in points) * 1.08)
        few_ticks(axes.xaxis)
        few_ticks(axes.yaxis)
        axes.set_xlabel("compute seconds per example")
        axes.set_ylabel(metric.title)
        svg = svg_text(figure, name=f"cost-{view.name}", description=f"{caption} {described}")
    return Plot(title=view.name, caption=caption, svg=svg)


def _draw_points(axes: "Axes", points: Sequence[Point]) -> None:
    """Later marks are smaller, so that one at the same place as an earlier one leaves its rim to be seen."""
    for at, (row, quality, busy_s) in enumerate(points):
        share = at / len(points)
        style, colour = mark_style(row), theme_colour(row.series)
        if row.low is not None and row.high is not None:
            axes.plot([busy_s] * 2, [row.low, row.high], color=colour, linewidth=3.5 - 2 * share, zorder=2)
        axes.plot([busy_s], [quality], markersize=13 - 4.5 * share, zorder=3, **style)
        axes.plot([], [], markersize=8.5, label=short(row.label), **style)
