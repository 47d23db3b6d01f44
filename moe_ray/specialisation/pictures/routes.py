"""Routes of tokens from layer to layer: bands between the first choices of consecutive layers, beside their null."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.fingerprint import fingerprint
from moe_ray.formatting import NO_BREAK, percent, plural
from moe_ray.specialisation.pictures.canvas import (
    SMALL_PT,
    TINY_PT,
    WIDTH_PT,
    Inks,
    Picture,
    axes_at,
    blank,
    shown_name,
)
from moe_ray.specialisation.records import Trace
from moe_ray.specialisation.report import SpecialisationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LAYERS, MAX_NODES = 6, 9
NUM_SHUFFLES = 99
HEIGHT_PT, NODE_PT, NODE_GAP = 270.0, 7.0, 0.018
MIN_FLOW = 0.004
OTHERS = "others"

# The upper ends of the nodes of two layers.
_Tops = Sequence[FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flows:
    """Shares of tokens [A, B] between groups of experts of two layers; `high` [A, B] holds 97.5 % of shuffles."""

    share: FloatArray
    high: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouteColumn:
    """A layer of the picture: its number, its groups' names, and the group of each expert [E]."""

    layer: int
    names: tuple[str, ...]
    group_of: np.ndarray[Any, np.dtype[np.intp]]

    @property
    def has_rest(self) -> bool:
        """Whether the last group holds several experts."""
        return len(self.group_of) > len(self.names)


def route_pictures(report: SpecialisationReport, trace: Trace) -> Iterator[Picture]:
    """Yield the routes between up to six consecutive layers: those that say most of each other beyond chance."""
    if not trace.tokens or len(trace.layers) < 2:
        return
    first, num = _window(report)
    columns = [_column(report, trace, at) for at in range(first, first + num)]
    flows = [flows_between(trace, first + at, columns[at], columns[at + 1]) for at in range(num - 1)]
    numbers = [column.layer for column in columns]
    caption = (
        f"First choices of {plural(int(trace.num_tokens.sum()), 'token')} in layers {numbers[0]} to {numbers[-1]} of "
        f"{plural(len(report.layers), 'layer')}; heights are shares of tokens. Blue: more tokens than in 97.5{NO_BREAK}"
        f"% of {NUM_SHUFFLES} shuffles of the tokens within each text; grey: no more than these. Experts beyond the "
        f"{MAX_NODES - 1} most used of a layer are one node, and bands between such nodes are grey; "
        f"bands below {percent(MIN_FLOW)} are not drawn. "
        f"n{NO_BREAK}={NO_BREAK}{plural(report.num_texts, 'text')}."
    )
    yield Picture(
        name="routes",
        title="Routes across layers",
        caption=caption,
        described=_described(columns, flows),
        draw=lambda inks: _figure(columns, flows, inks),
    )


def _window(report: SpecialisationReport) -> tuple[int, int]:
    """Return the place of the first layer and how many there are, by the information between layers beyond chance."""
    num = min(MAX_LAYERS, len(report.layers))
    excess = {one.layer: one.excess or 0.0 for one in report.values if one.measure == "cross_layer_information"}
    gains = [excess.get(layer.layer, 0.0) for layer in report.layers]
    starts = range(len(report.layers) - num + 1)
    return max(starts, key=lambda start: (sum(gains[start : start + num - 1]), -start)), num


def _column(report: SpecialisationReport, trace: Trace, at: int) -> RouteColumn:
    record = trace.layers[at].record
    first = np.concatenate([text.experts[:, at, 0] for text in trace.tokens])
    used = np.bincount(first[first >= 0], minlength=record.num_experts)
    num_kept = record.num_experts if record.num_experts <= MAX_NODES else MAX_NODES - 1
    kept = sorted(np.argsort(-used, kind="stable")[:num_kept].tolist())
    names = [report.expert_name(expert) for expert in kept]
    group_of = np.full(record.num_experts, len(kept), dtype=np.intp)
    group_of[kept] = np.arange(len(kept))
    return RouteColumn(
        layer=record.layer, names=(*names, *([OTHERS] if num_kept < record.num_experts else [])), group_of=group_of
    )


def flows_between(trace: Trace, at: int, one: RouteColumn, two: RouteColumn) -> Flows:
    """Return the shares of tokens between the groups of layers at places `at` and `at + 1`, and their null."""
    pairs = []
    for text in trace.tokens:
        a, b = text.experts[:, at, 0], text.experts[:, at + 1, 0]
        used = (a >= 0) & (b >= 0)
        pairs.append((one.group_of[a[used]], two.group_of[b[used]]))
    shape = (len(one.names), len(two.names))
    num_tokens = max(1, sum(len(a) for a, _ in pairs))
    seed = int(fingerprint({"purpose": "routes", "layer": one.layer, "num_texts": len(pairs)}), 16)
    rng = np.random.Generator(np.random.PCG64(seed))
    right = np.concatenate([b for _, b in pairs])
    drawn = [_joint(np.concatenate([rng.permutation(a) for a, _ in pairs]), right, shape) for _ in range(NUM_SHUFFLES)]
    share = _joint(np.concatenate([a for a, _ in pairs]), right, shape)
    return Flows(share=share / num_tokens, high=np.quantile(drawn, 0.975, axis=0) / num_tokens)


def _joint(a: Any, b: Any, shape: tuple[int, int]) -> FloatArray:
    counts = np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).astype(np.float64)
    return counts.reshape(shape)


def _described(columns: Sequence[RouteColumn], flows: Sequence[Flows]) -> str:
    found = [
        (float(part.share[a, b]), f"layer {one.layer} expert {one.names[a]} to layer {two.layer} {two.names[b]}")
        for one, two, part in zip(columns[:-1], columns[1:], flows, strict=True)
        for a, b in zip(*np.nonzero(part.share > part.high), strict=True)
    ]
    found.sort(key=lambda flow: -flow[0])
    return "; ".join(f"{name}: {percent(share)}" for share, name in found[:8]) or "No route beyond chance"


def _figure(columns: Sequence[RouteColumn], flows: Sequence[Flows], inks: Inks) -> "Figure":
    figure = blank(HEIGHT_PT + 30)
    axes = axes_at(figure, inks, (24, 18, WIDTH_PT - 60, HEIGHT_PT))
    half = NODE_PT / 2 * (len(columns) - 1 + 0.35) / (WIDTH_PT - 60)
    sizes = [_sizes(flows, at) for at in range(len(columns))]
    for at, flow in enumerate(flows):
        tops = [_tops(sizes[at]), _tops(sizes[at + 1])]
        _draw_flows(axes, at, flow, columns[at : at + 2], tops, half, inks)
    for at, (column, heights) in enumerate(zip(columns, sizes, strict=True)):
        _draw_nodes(axes, at, column, heights, half, inks)
    axes.set_xlim(-0.1, len(columns) - 1 + 0.25)
    axes.set_ylim(1 + NODE_GAP * (MAX_NODES - 1) + 0.01, -0.01)
    axes.set_axis_off()
    return figure


def _sizes(flows: Sequence[Flows], at: int) -> FloatArray:
    summed: FloatArray = flows[at].share.sum(axis=1) if at < len(flows) else flows[at - 1].share.sum(axis=0)
    return summed


def _tops(heights: FloatArray) -> FloatArray:
    gap = NODE_GAP * (MAX_NODES - 1) / max(1, len(heights) - 1)
    tops: FloatArray = np.concatenate([[0.0], np.cumsum(heights)[:-1]]) + gap * np.arange(len(heights))
    return tops


def _draw_flows(
    axes: "Axes",
    at: int,
    flow: Flows,
    columns: Sequence[RouteColumn],
    tops: Sequence[FloatArray],
    half: float,
    inks: Inks,
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    left_edge, right_edge = tops[0].copy(), tops[1].copy()
    is_grouped = all(column.has_rest for column in columns)
    rest = (len(tops[0]) - 1, len(tops[1]) - 1) if is_grouped else None
    start, end = at + half, at + 1 - half
    middle = (start + end) / 2
    for a, b in np.ndindex(flow.share.shape):
        share = float(flow.share[a, b])
        y, z = float(left_edge[a]), float(right_edge[b])
        left_edge[a] += share
        right_edge[b] += share
        if share < MIN_FLOW:
            continue
        points = [(start, y), (middle, y), (middle, z), (end, z), (end, z + share), (middle, z + share),
                  (middle, y + share), (start, y + share), (start, y)]  # fmt: skip
        codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.CLOSEPOLY]
        # Two groups of many experts say nothing of routes.
        is_more = share > flow.high[a, b] and (a, b) != rest
        colour, alpha = (inks.series[1], 0.75) if is_more else (inks.muted, 0.22)
        axes.add_patch(PathPatch(Curve(points, codes), facecolor=colour, alpha=alpha, linewidth=0, zorder=2 + is_more))


def _draw_nodes(axes: "Axes", at: int, column: RouteColumn, heights: FloatArray, half: float, inks: Inks) -> None:
    from matplotlib.patches import Rectangle

    for name, top, height in zip(column.names, _tops(heights).tolist(), heights.tolist(), strict=True):
        axes.add_patch(Rectangle((at - half, top), 2 * half, height, facecolor=inks.ink, linewidth=0, zorder=4))
        behind = {"facecolor": inks.paper, "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
        place = (at + 1.6 * half, top + height / 2)
        axes.text(*place, shown_name(name, 12), fontsize=TINY_PT, va="center", zorder=5, bbox=behind)
    axes.text(at, -0.02, f"layer {column.layer}", fontsize=SMALL_PT, ha="center", va="bottom")
