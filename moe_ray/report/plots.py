"""Plots of quality, cost, latency and memory."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from moe_ray.comparison.records import MetricValue, Summary
from moe_ray.formatting import NO_BREAK, interval, listed, number, seconds, significant, size
from moe_ray.report.svg import (
    INK,
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
from moe_ray.report.views import DomainView, MetricView, SystemRow, series_of

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


MEMORY_KINDS = {
    "weights_bytes": ("weights", "|"),
    "resident_bytes": ("resident set", "<"),
    "torch_bytes": ("torch peak", ">"),
    "gpu_process_bytes": ("GPU process", "*"),
}
MEMORY_STYLE: dict[str, Any] = {"linestyle": "", "markersize": 9.0, "markeredgewidth": 2.0}


def resource_plots(summary: Summary) -> Iterator[Plot]:
    """All plots of what models cost."""
    for plot in (latency_plot(summary), probe_plot(summary), throughput_plot(summary), memory_plot(summary)):
        if plot is not None:
            yield plot


def latency_plot(summary: Summary) -> Plot | None:
    """p50 to p99 of whole answers inside their batches, one line a model, on a logarithmic axis."""
    series = series_of(summary)
    spans = [
        (PlotRow(name, item.p50_s, item.p50_s, item.p99_s, series[name]), item)
        for name, model in summary.models.items()
        for item in model.latency
        if item.quantity == "total_s"
    ]
    if not spans:
        return None
    numbers = "; ".join(
        f"{row.label} p50 {seconds(item.p50_s)}, p90 {seconds(item.p90_s)}, p99 {seconds(item.p99_s)}, n = {item.n}"
        for row, item in spans
    )

    def draw(axes: "Axes", rows: Sequence[PlotRow]) -> None:
        draw_marks(axes, rows)
        for at, (row, item) in enumerate(spans):
            colour = theme_colour(row.series)
            axes.plot([item.p90_s], [at], marker="|", color=colour, markersize=11, markeredgewidth=2)
            axes.plot([item.p99_s], [at], marker="|", color=colour, markersize=11, markeredgewidth=2)
        _seconds_axis(axes)

    caption = "Time to a whole answer inside its batch: mark at p50, strokes at p90 and p99; over all answers."
    svg = rows_panel([row for row, _ in spans], draw, name="latency", text=f"{caption} {numbers}")
    return Plot(title="Latency in batches", caption=caption, svg=svg)


def probe_plot(summary: Summary) -> Plot | None:
    """Minimum, median and maximum of the batch-size-1 probe."""
    series = series_of(summary)
    rows = [
        PlotRow(
            name, model.probe.total_s.median, model.probe.total_s.minimum, model.probe.total_s.maximum, series[name]
        )
        for name, model in summary.models.items()
        if model.probe is not None
    ]
    if not rows:
        return None

    def draw(axes: "Axes", rows: Sequence[PlotRow]) -> None:
        draw_marks(axes, rows)
        _seconds_axis(axes)

    num = max(model.probe.total_s.n for model in summary.models.values() if model.probe is not None)
    caption = f"One answer at a time (batch size 1): median, smallest and largest of up to {num} probes a model."
    text = f"{caption} " + "; ".join(f"{row.label} {seconds(row.value)}" for row in rows)
    return Plot(title="Latency alone", caption=caption, svg=rows_panel(rows, draw, name="probe", text=text))


def _seconds_axis(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if decades < 0.9 else (1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_seconds(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds (logarithmic)")


def _short_seconds(value: float) -> str:
    return f"{value:g}"


def memory_plot(summary: Summary) -> Plot | None:
    """The largest figure of each kind that a model's replicas gave: the mark tells the kind, the colour whose."""
    models = {
        name: sizes
        for name, model in summary.models.items()
        if (sizes := {kind: held for kind in MEMORY_KINDS if (held := getattr(model.peak_memory, kind)) is not None})
    }
    if not models:
        return None
    series = series_of(summary)

    def draw(axes: "Axes", _: Sequence[PlotRow]) -> None:
        for kind, (name, mark) in MEMORY_KINDS.items():
            for at, (model, sizes) in enumerate(models.items()):
                if kind in sizes:
                    axes.plot([sizes[kind] / 2**30], [at], mark, color=theme_colour(series[model]), **MEMORY_STYLE)
            if any(kind in sizes for sizes in models.values()):
                axes.plot([], [], mark, color=INK, label=name, **MEMORY_STYLE)
        legend_above(axes, num_columns=4)
        axes.set_xlim(left=0)
        few_ticks(axes.xaxis)
        axes.set_xlabel("GiB")

    caption = "Peak memory of one replica, the largest over all replicas; weights as loaded."
    figures = [
        f"{model} {MEMORY_KINDS[kind][0]} {size(held)}"
        for model, sizes in models.items()
        for kind, held in sizes.items()
    ]
    lines = [PlotRow(model, None, None, None, 0) for model in models]
    svg = rows_panel(lines, draw, name="memory", text=f"{caption} {'; '.join(figures)}")
    return Plot(title="Memory", caption=caption, svg=svg)


def throughput_plot(summary: Summary) -> Plot | None:
    """Completion tokens for each second that the engine was busy."""
    series = series_of(summary)
    rows = [
        PlotRow(name, model.completion_tokens_per_busy_s, 0.0, model.completion_tokens_per_busy_s, series[name])
        for name, model in summary.models.items()
        if model.completion_tokens_per_busy_s is not None
    ]
    if not rows:
        return None

    def draw(axes: "Axes", rows: Sequence[PlotRow]) -> None:
        draw_marks(axes, rows)
        axes.set_xlim(left=0)
        few_ticks(axes.xaxis)
        axes.set_xlabel("completion tokens per second of compute")

    caption = "Completion tokens over the time inside the engine, summed over all replicas, one slot each."
    text = f"{caption} " + "; ".join(f"{row.label} {significant(row.value)}" for row in rows)
    return Plot(title="Throughput", caption=caption, svg=rows_panel(rows, draw, name="throughput", text=text))
