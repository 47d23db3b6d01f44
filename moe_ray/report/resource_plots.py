"""Plots of the cost of models: latency, throughput, memory."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from moe_ray.comparison.records import Summary
from moe_ray.formatting import seconds, significant, size
from moe_ray.report.svg import INK, Plot, PlotRow, draw_marks, few_ticks, legend_above, rows_panel, theme_colour
from moe_ray.report.views import series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
