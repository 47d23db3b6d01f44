"""The cascade over all thresholds: what quality costs, from "the router always" to "the baseline always"."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from moe_ray.comparison.records import Summary
from moe_ray.comparison.routing_records import Sweep, SweepPoint
from moe_ray.comparison.systems import CASCADE, ROUTED
from moe_ray.formatting import SECONDS, in_one_unit, listed, number, seconds, words
from moe_ray.report.plots import hollow
from moe_ray.report.svg import (
    INK,
    LEGEND_ROW_PX,
    MUTED,
    PAPER,
    RULE,
    Plot,
    PlotRow,
    drawing_style,
    few_ticks,
    legend_above,
    mark_style,
    panel,
    svg_text,
    theme_colour,
)
from moe_ray.report.views import BOUNDS, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWEEP_PX = 230
LEGEND_COLUMNS = 2


class SystemMark(NamedTuple):
    """A system beside the curve: its mean quality, and what one example costs it on average."""

    row: PlotRow
    quality: float
    busy_s: float


def sweep_plots(summary: Summary) -> list[Plot]:
    """Mean quality against busy time, where that was measured, and against the share that the baseline answers."""
    sweep = summary.routing.sweep if summary.routing else None
    if sweep is None or not sweep.points:
        return []
    plots = [_share_plot(summary, sweep)]
    return [_cost_plot(summary, sweep), *plots] if all(item.busy_s is not None for item in sweep.points) else plots


def own_point(summary: Summary, sweep: Sweep) -> SweepPoint:
    """Where the run's own threshold stands: it sends to the baseline whom the next higher point sends there."""
    assert summary.routing is not None
    threshold = summary.routing.threshold
    return next((item for item in sweep.points if item.threshold >= threshold), sweep.points[-1])


def _cost_plot(summary: Summary, sweep: Sweep) -> Plot:
    places = list(_places(summary, sweep))
    curve = [item.busy_s or 0.0 for item in sweep.points]
    unit, _ = in_one_unit([*curve, *(item.busy_s for item in places)], SECONDS)
    scale = next(item.size for item in SECONDS if item.name == unit)
    against = "compute time per example, the router's included"
    caption = (
        f"{_quality(sweep)}, against {against}. The line is the cascade as its threshold rises; no axis starts at 0."
    )
    caption += hollow([item.row for item in places])
    described = [f"{item.row.label} {seconds(item.busy_s)}, {number(item.quality)}" for item in places]
    described += [f"{name} {seconds(item.busy_s)}, {number(item.value)}" for name, item in _named(summary, sweep)]
    num_names = len(places) + len(_named(summary, sweep))

    def draw(axes: "Axes") -> None:
        for item in places:
            style = {"markersize": 9.5, "zorder": 3, **mark_style(item.row)}
            axes.plot([item.busy_s / scale], [item.quality], label=item.row.label, **style)
        _draw_curve(axes, summary, sweep, [x / scale for x in curve])
        axes.margins(x=0.06)
        axes.set_xlabel(f"compute time per example ({unit})")

    svg = _drawn(draw, num_names, name="sweep-cost", text=f"{caption} {'; '.join(described)}")
    return Plot(title="Quality against compute time", caption=caption, svg=svg)


def _share_plot(summary: Summary, sweep: Sweep) -> Plot:
    caption = (
        f"{_quality(sweep)}, against the share of the examples that the baseline answers. "
        "Dashed: that share drawn at random."
    )
    described = [
        f"{name}: share {number(item.baseline_share)}, {number(item.value)}" for name, item in _named(summary, sweep)
    ]
    first, last = sweep.points[0], sweep.points[-1]

    def draw(axes: "Axes") -> None:
        ends = ([first.baseline_share, last.baseline_share], [first.value, last.value])
        axes.plot(*ends, color=MUTED, linewidth=1, linestyle="--")
        _draw_curve(axes, summary, sweep, [item.baseline_share for item in sweep.points])
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("share answered by the baseline")

    text = f"{caption} {'; '.join(described)}"
    svg = _drawn(draw, len(_named(summary, sweep)), name="sweep-share", text=text)
    return Plot(title="Quality against the threshold", caption=caption, svg=svg)


def _quality(sweep: Sweep) -> str:
    names = listed(list(dict.fromkeys(words(metric) for metric in sweep.metrics.values())))
    return f"Mean over the domains of {names}, on {sweep.n} examples"


def _named(summary: Summary, sweep: Sweep) -> list[tuple[str, SweepPoint]]:
    """The points of the curve that bear a name."""
    ends = [("router always", sweep.points[0]), ("baseline always", sweep.points[-1])]
    return [*ends, ("this run's threshold", own_point(summary, sweep))]


def _places(summary: Summary, sweep: Sweep) -> Iterator[SystemMark]:
    """The policies that are no part of the curve, where all of the domains were answered and measured."""
    series = series_of(summary)
    for system in summary.systems:
        if system.kind == "policy" and system.name not in (ROUTED, CASCADE):
            values = [summary.value(system.name, domain, metric) for domain, metric in sweep.metrics.items()]
            costs = [summary.cost(system.name, domain) for domain in sweep.metrics]
            known = [item.value for item in values if item is not None and item.value is not None]
            paid = [(item.busy_s, item.n) for item in costs if item is not None]
            if len(known) == len(paid) == len(sweep.metrics):
                row = PlotRow(words(system.name), None, None, None, series[system.name], system.name in BOUNDS)
                num = sum(n for _, n in paid)
                yield SystemMark(row, math.fsum(known) / len(known), math.fsum(busy_s * n for busy_s, n in paid) / num)


def _draw_curve(axes: "Axes", summary: Summary, sweep: Sweep, x: Sequence[float]) -> None:
    """The cascade's line, with a mark at its ends and at the run's own threshold."""
    colour = theme_colour(series_of(summary).get(CASCADE, 1))
    axes.plot(x, [item.value for item in sweep.points], color=colour, linewidth=2, zorder=2)
    for (name, item), mark in zip(_named(summary, sweep), (">", "<", "|"), strict=True):
        style: dict[str, Any] = {"marker": mark, "markersize": 7.5, "linestyle": "", "markeredgecolor": PAPER}
        if mark == "|":
            style |= {"markersize": 17, "markeredgewidth": 3, "markeredgecolor": INK}
        axes.plot([x[sweep.points.index(item)]], [item.value], color=colour, label=name, zorder=4, **style)


def _drawn(draw: Callable[["Axes"], None], num_names: int, *, name: str, text: str) -> str:
    """A panel with both grids and a legend of `num_names`, filled by `draw`. Returns the SVG."""
    with drawing_style():
        figure, axes = panel(SWEEP_PX + LEGEND_ROW_PX * math.ceil(num_names / LEGEND_COLUMNS))
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        draw(axes)
        legend_above(axes, num_columns=LEGEND_COLUMNS)
        axes.margins(y=0.12)
        few_ticks(axes.xaxis)
        few_ticks(axes.yaxis)
        axes.set_ylabel("mean quality")
        return svg_text(figure, name=name, description=text)
