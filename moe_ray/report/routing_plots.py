"""Plots of a router: confusion, confidence, and the cost of its mistakes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from moe_ray.comparison.records import Summary
from moe_ray.comparison.routing_records import Regret
from moe_ray.formatting import count, number, signed, words
from moe_ray.gating.calibration import Calibration, ReliabilityBin
from moe_ray.proportions import wilson_bounds
from moe_ray.report.svg import (
    BAD,
    FRAME_PX,
    INK,
    LABEL_CHARS,
    LEGEND_ROW_PX,
    MUTED,
    PANEL_WIDTH_PX,
    PAPER,
    RULE,
    Plot,
    PlotRow,
    drawing_style,
    few_ticks,
    legend_above,
    panel,
    rows_panel,
    short,
    svg_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_FILL = 0.5  # opacity of a full cell, so that ink stays readable on it; tests/report/test_colours.py measures it
MAX_COUNTED = 6  # labels of a matrix whose cells hold counts and shares; of more there is room for shares alone
CELL_PX, SMALL_CELL_PX = 44, 24
LETTER_PX = 6.5
RELIABILITY_PX = 300
COUNT_ROOM = 0.17
PARTS = {
    "wrong_domain": ("wrong domain", BAD, BAD),
    "sent_to_baseline": ("sent to the baseline", INK, INK),
    "right_expert_worse": ("right expert worse", RULE, MUTED),
}


class CalibrationCurve(NamedTuple):
    """A calibration as it is drawn: full marks or hollow ones."""

    label: str
    calibration: Calibration
    is_hollow: bool = False


def routing_plots(summary: Summary) -> list[Plot]:
    """Confusion and reliability on the run's own examples."""
    routing = summary.routing
    if routing is None or not any(map(sum, routing.confusion)):
        return []
    return [
        confusion_plot("Domains on this run", routing.domains, routing.confusion, name="confusion"),
        reliability_plot("Confidence on this run", [CalibrationCurve("", routing.calibration)], name="reliability"),
    ]


def own_test_plots(summary: Summary) -> list[Plot]:
    """Confusion and reliability on the router's own test texts, before and after temperature scaling."""
    tested = summary.routing.test_results if summary.routing else None
    if tested is None:
        return []
    curves = [
        CalibrationCurve("before scaling", tested.before_scaling, is_hollow=True),
        CalibrationCurve("after scaling", tested.after_scaling),
    ]
    return [
        confusion_plot("Labels of the test texts", tested.labels, tested.confusion, name="confusion-test"),
        reliability_plot("Confidence on the test texts", curves, name="reliability-test"),
    ]


def confusion_plot(title: str, labels: Sequence[str], confusion: Sequence[Sequence[int]], *, name: str) -> Plot:
    """Counts by own label (rows) and most probable label (columns), shaded by their share of the row."""
    names = [short(words(label), LABEL_CHARS) for label in labels]
    longest = max(map(len, names))
    is_small = len(labels) > MAX_COUNTED
    is_turned = longest * LETTER_PX > (PANEL_WIDTH_PX - longest * LETTER_PX) / len(labels)
    shown = "percent of the row" if is_small else "texts, and their share of the row"
    caption = f"Rows: the true domain; columns: the domain that the router found most probable. Cells: {shown}."
    described = "; ".join(
        f"{words(own)} taken for {words(other)} {num}"
        for own, row in zip(labels, confusion, strict=True)
        for other, num in zip(labels, row, strict=True)
        if num
    )
    height = FRAME_PX + len(labels) * (SMALL_CELL_PX if is_small else CELL_PX) + is_turned * longest * LETTER_PX
    with drawing_style():
        figure, axes = panel(height)
        _matrix_axes(axes, names, is_turned=is_turned)
        for at, row in enumerate(confusion):
            _draw_cells(axes, at, row, is_small=is_small)
        svg = svg_text(figure, name=name, description=f"{caption} {described}")
    return Plot(title=title, caption=caption, svg=svg)


def _matrix_axes(axes: "Axes", names: Sequence[str], *, is_turned: bool) -> None:
    axes.grid(visible=False)
    axes.set_xticks(range(len(names)), names, rotation=90 if is_turned else 0, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _draw_cells(axes: "Axes", at: int, row: Sequence[int], *, is_small: bool) -> None:
    from matplotlib.patches import Rectangle

    for column, num in enumerate(row):
        share = num / sum(row) if num else 0.0
        rim: dict[str, Any] = {"edgecolor": INK if at == column else RULE, "linewidth": 1.5 if at == column else 0.8}
        corner = (column - 0.47, at - 0.47)
        axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor="none", **rim))
        axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=MUTED, alpha=MAX_FILL * share, edgecolor="none"))
        centred: dict[str, Any] = {"color": INK, "ha": "center", "va": "center"}
        if is_small:
            axes.text(column, at, f"{100 * share:.0f}" if num else "", fontsize=9, **centred)
        else:
            axes.text(column, at - 0.13 * bool(num), count(num), fontsize=11, **centred)
            axes.text(column, at + 0.22, number(share, 2) if num else "", fontsize=9, **centred)


def reliability_plot(title: str, curves: Sequence[CalibrationCurve], *, name: str) -> Plot:
    """Share right against mean confidence, by bin, on bars that say how many texts lie in each bin."""
    errors = ", ".join(f"{number(curve.calibration.ece)}{f' {curve.label}' if curve.label else ''}" for curve in curves)
    caption = (
        f"On the dashed line, the router is right as often as its confidence says. Strokes are 95 % intervals, "
        f"bars the share of the texts in each bin, with their number above. Expected calibration error {errors}."
    )
    described = "; ".join(
        f"{curve.label} confidence {number(item.mean_confidence)}, right {number(item.accuracy)}, n = {item.n}".strip()
        for curve in curves
        for item in _filled(curve.calibration)
    )
    with drawing_style():
        figure, axes = panel(RELIABILITY_PX + (LEGEND_ROW_PX if len(curves) > 1 else 0))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        _draw_bins(axes, curves[-1].calibration)
        for curve in curves:
            _draw_curve(axes, curve)
        if len(curves) > 1:
            legend_above(axes, num_columns=2)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1 + COUNT_ROOM)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_xlabel("confidence: highest probability")
        axes.set_ylabel("share right")
        svg = svg_text(figure, name=name, description=f"{caption} {described}")
    return Plot(title=title, caption=caption, svg=svg)


def _filled(calibration: Calibration) -> Iterator[ReliabilityBin]:
    return (item for item in calibration.bins if item.n)


def _draw_bins(axes: "Axes", calibration: Calibration) -> None:
    total = sum(item.n for item in calibration.bins)
    for item in _filled(calibration):
        width, middle = item.high - item.low, (item.low + item.high) / 2
        axes.bar(middle, item.n / total, width=0.9 * width, color=RULE, zorder=0.5)
        axes.text(middle, 1.04, str(item.n), rotation=90, fontsize=8.5, color=MUTED, ha="center", va="bottom")


def _draw_curve(axes: "Axes", curve: CalibrationCurve) -> None:
    for at, item in enumerate(_filled(curve.calibration)):
        confidence, share = item.mean_confidence, item.accuracy
        assert confidence is not None
        assert share is not None
        bounds = wilson_bounds(round(share * item.n), item.n)
        axes.plot([confidence, confidence], bounds, color=MUTED, linewidth=1 if curve.is_hollow else 2.5)
        face, edge = (PAPER, INK) if curve.is_hollow else (INK, PAPER)
        mark: dict[str, Any] = {
            "marker": "s" if curve.is_hollow else "o",
            "markerfacecolor": face,
            "markeredgecolor": edge,
        }
        label = curve.label if not at else None
        axes.plot([confidence], [share], markersize=7.5, linestyle="", zorder=3, label=label, **mark)


def regret_plots(summary: Summary) -> list[Plot]:
    """What each system loses to the oracle, a panel for each domain."""
    found = summary.routing.regret if summary.routing else []
    domains = dict.fromkeys(item.domain for item in found)
    return [_regret_plot(domain, [item for item in found if item.domain == domain]) for domain in domains]


def _regret_plot(domain: str, items: Sequence[Regret]) -> Plot:
    rows = [PlotRow(words(item.system), item.regret, None, None, 0) for item in items]
    caption = f"Mean loss of {words(items[0].metric)} to the oracle for each example, in its parts. Left of 0: a gain."
    described = "; ".join(
        f"{words(item.system)} {signed(item.regret)}: "
        + ", ".join(f"{title} {signed(getattr(item, part))}" for part, (title, *_) in PARTS.items())
        for item in items
    )

    def draw(axes: "Axes", _: Sequence[PlotRow]) -> None:
        for at, item in enumerate(items):
            _draw_parts(axes, at, item)
        for title, face, edge in PARTS.values():
            axes.plot([], [], marker="s", color=face, linestyle="", markeredgecolor=edge, markersize=9, label=title)
        axes.plot([], [], marker="D", color=INK, linestyle="", markeredgecolor=PAPER, label="regret: their sum")
        legend_above(axes, num_columns=2)
        axes.axvline(0, color=MUTED, linewidth=1)
        few_ticks(axes.xaxis)
        axes.set_xlabel(f"loss of {words(items[0].metric)}")

    name = f"regret-{domain}"
    svg = rows_panel(rows, draw, name=name, text=f"{caption} {described}", legend_px=2 * LEGEND_ROW_PX)
    return Plot(title=domain, caption=caption, svg=svg)


def _draw_parts(axes: "Axes", at: int, item: Regret) -> None:
    """Losses to the right of 0, gains to the left of it, each after the last; a mark at their sum."""
    ends = {True: 0.0, False: 0.0}
    for part, (_, face, edge) in PARTS.items():
        size = getattr(item, part)
        axes.barh([at], [size], left=ends[size > 0], height=0.55, color=face, edgecolor=edge, linewidth=0.8)
        ends[size > 0] += size
    axes.plot([item.regret], [at], marker="D", color=INK, markeredgecolor=PAPER, markersize=7.5, linestyle="")
