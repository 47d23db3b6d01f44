"""Pictures of which experts are used: lift, routing entropy, utilisation and co-activation, each beside its null."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moe_ray.formatting import NO_BREAK, number, plural, signed
from moe_ray.specialisation.measures import ALL_TEXTS, MeasuredValue
from moe_ray.specialisation.pictures.canvas import (
    MAX_HEIGHT_PT,
    SMALL_PT,
    WIDTH_PT,
    Inks,
    Picture,
    axes_at,
    blank,
    file_stem,
    shown_name,
)
from moe_ray.specialisation.pictures.grids import (
    Grid,
    GridCell,
    Scale,
    grid_figure,
    grids_by_class,
    limit_of,
    part_of,
    pictures_of,
    strongest,
)
from moe_ray.specialisation.report import ALPHA, SpecialisationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INTERVAL = f"95{NO_BREAK}% intervals over texts"
PERMUTED = f"95{NO_BREAK}% of the values after permuting the classes of the texts"
LEFT_PT, RIGHT_PT, TOP_PT, BOTTOM_PT = 40.0, 8.0, 14.0, 26.0
PANEL_PT = 78.0
MAX_PANELS, MAX_LAYERS = 6, 4
MAX_DESCRIBED = 12


def pictures_of_use(report: SpecialisationReport) -> list[Picture]:
    """Return all pictures of a trace's report; those of comparisons only where there are two classes.

    Single layers are shown for at most four: those whose use differs most between the classes.
    """
    found = [*lift_pictures(report), *entropy_pictures(report)]
    for layer in layers_to_show(report):
        found += utilisation_pictures(report, layer)
        found += co_activation_pictures(report, layer)
    return found


def layers_to_show(report: SpecialisationReport) -> list[int]:
    """Return the numbers of at most four layers, rising: those with the most divergence beyond chance."""
    excess = {one.layer: one.excess or 0.0 for one in report.values if one.measure == "generalised_js"}
    numbers = [layer.layer for layer in report.layers]
    return sorted(sorted(numbers, key=lambda layer: (-excess.get(layer, 0.0), layer))[:MAX_LAYERS])


def expert_names(report: SpecialisationReport) -> list[str]:
    """Return names for all columns: those of the trace, or numbers."""
    num_experts = max(layer.num_experts for layer in report.layers)
    return [report.expert_name(expert) for expert in range(num_experts)]


def _texts(report: SpecialisationReport) -> str:
    classes = ", ".join(f"{name} {size}" for name, size in report.classes.items())
    return f"n{NO_BREAK}={NO_BREAK}{plural(report.num_texts, 'text')}" + (f" ({classes})" if classes else "")


def lift_pictures(report: SpecialisationReport) -> Iterator[Picture]:
    """Yield heatmaps of the log2 lift of each class and expert; what is not significant has no colour."""
    lifts = [one for one in report.values if one.measure == "lift" and one.value is not None]
    cells = [GridCell(one.layer, one.label or "", one.expert or 0, one.value or 0.0, one.q_value) for one in lifts]
    layers = [(layer.layer, f"layer {layer.layer}") for layer in report.layers]
    grids, rows = grids_by_class(cells, layers, expert_names(report), ALPHA) if cells else ([], "")
    limit = limit_of(grids)
    scale = Scale(unit="lift, log2", row_title=rows, column_title="expert")
    parts = pictures_of(grids)
    for at, part in enumerate(parts):
        caption = (
            "How many times as often a class uses an expert as the classes together do, as log2 (1 is twice, "
            f"{signed(-1, 0)} is half). Coloured: q{NO_BREAK}<{NO_BREAK}{ALPHA} by a t test over texts, adjusted over "
            f"{plural(len(lifts), 'lift')}; grey: not significant; a white stroke marks less than the classes "
            f"together. {_texts(report)}."
        )
        yield Picture(
            name=file_stem("lift", at + 1),
            title=f"Lift{part_of(at, len(parts))}",
            caption=caption,
            described=strongest(part),
            draw=partial(grid_figure, part, limit, scale),
        )


def _by_label(values: Sequence[MeasuredValue]) -> dict[str, list[MeasuredValue]]:
    found: dict[str, list[MeasuredValue]] = {}
    for value in values:
        found.setdefault(value.label or "", []).append(value)
    return found


def entropy_pictures(report: SpecialisationReport) -> Iterator[Picture]:
    """Yield the routing entropy by layer, a panel for all texts and one per class with its null."""
    values = [one for one in report.values if one.measure == "entropy" and one.expert is None and one.value is not None]
    if not values or report.unit == "text":
        return
    panels = _farthest(_by_label(values))
    left_out = len(_by_label(values)) - len(panels)
    caption = (
        f"Entropy of the router's distribution over all experts, mean over tokens; bars are {INTERVAL}, grey boxes "
        f"hold {PERMUTED}, and the dotted line, where it is in range, is a uniform router's log2 E. All texts "
        f"together have no null. {_texts(report)}."
    )
    if left_out:
        caption += f" Classes nearest to their null are not shown ({left_out})."
    described = "; ".join(
        f"{label}, layer {one.layer}: {number(one.value, 2)} bits" for label, ones in panels.items() for one in ones[:6]
    )
    layers = [layer.layer for layer in report.layers]
    what = _Places(
        title="layer",
        y_title="entropy, bits",
        place_of=lambda value: value.layer,
        places=layers,
        names=[str(layer) for layer in layers],
        uniform=[float(np.log2(layer.num_experts)) for layer in report.layers],
    )
    yield Picture(
        name="entropy",
        title="Routing entropy by layer",
        caption=caption,
        described=described,
        draw=lambda inks: _panels(panels, what, inks),
    )


def _farthest(panels: dict[str, list[MeasuredValue]]) -> dict[str, list[MeasuredValue]]:
    """Keep all texts and the classes that are farthest from their null."""
    kept = sorted(
        panels,
        key=lambda label: (label != ALL_TEXTS, -max((abs(one.excess or 0.0) for one in panels[label]), default=0.0)),
    )[:MAX_PANELS]
    return {label: panels[label] for label in panels if label in kept}


class _Places(NamedTuple):
    """What is along the axis: the places of values, `names` for the ticks, and what a uniform router would give."""

    title: str
    y_title: str
    place_of: Callable[[MeasuredValue], int | None]
    places: Sequence[int]
    names: Sequence[str]
    uniform: Sequence[float]


def _panels(panels: dict[str, list[MeasuredValue]], what: _Places, inks: Inks) -> "Figure":
    """Draw a panel per class over the places, each value with its interval and its null. All share one scale."""
    across = 2 if len(what.places) <= 16 and len(panels) > 1 else 1
    down = -(-len(panels) // across)
    height = min(PANEL_PT, MAX_HEIGHT_PT / down - TOP_PT - BOTTOM_PT)
    width = (WIDTH_PT - across * (LEFT_PT + RIGHT_PT)) / across
    figure = blank(down * (height + TOP_PT + BOTTOM_PT))
    ends = [end for values in panels.values() for one in values for end in _ends(one)]
    margin = 0.06 * (max(ends) - min(ends)) or 0.05
    for at, (label, values) in enumerate(panels.items()):
        left = LEFT_PT + (at % across) * (width + LEFT_PT + RIGHT_PT)
        axes = axes_at(figure, inks, (left, TOP_PT + (at // across) * (height + TOP_PT + BOTTOM_PT), width, height))
        _draw_panel(axes, values, what, inks)
        axes.set_ylim(min(ends) - margin, max(ends) + margin)
        axes.set_title(shown_name(label, 40), loc="left", pad=3, fontsize=SMALL_PT, fontweight="bold")
        _label_places(axes, what, width)
        axes.set_ylabel(what.y_title, fontsize=SMALL_PT, labelpad=2)
    return figure


def _label_places(axes: "Axes", what: _Places, width: float) -> None:
    names = [shown_name(name, 12) for name in what.names]
    needed = max(11.0, 3.9 * max(len(name) for name in names) + 3)
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 4096) if step * width / len(names) >= needed)
    shown = list(range(0, len(names), step))
    axes.set_xticks(shown, [names[at] for at in shown])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel(what.title, fontsize=SMALL_PT, labelpad=1)


def _ends(value: MeasuredValue) -> list[float]:
    return [end for end in (value.value, value.low, value.high, value.null_low, value.null_high) if end is not None]


def _draw_panel(axes: "Axes", values: Sequence[MeasuredValue], what: _Places, inks: Inks) -> None:
    from matplotlib.patches import Rectangle

    at = {place: column for column, place in enumerate(what.places)}
    num = len(what.places)
    size = 4.0 if num <= 24 else 2.4
    uniform = [what.uniform[0], *what.uniform, what.uniform[-1]]
    axes.step([-0.5, *range(num), num - 0.5], uniform, where="mid", color=inks.muted, linewidth=0.7, linestyle=":")
    for value in values:
        has_null = value.null_low is not None and value.null_high is not None
        x = at[what.place_of(value) or 0]
        if value.null_low is not None and value.null_high is not None:
            box = Rectangle((x - 0.38, value.null_low), 0.76, value.null_high - value.null_low)
            box.set(facecolor=inks.rule, edgecolor=inks.muted, linewidth=0.4)
            axes.add_patch(box)
        if value.low is not None and value.high is not None:
            axes.plot([x, x], [value.low, value.high], color=inks.series[1], linewidth=1.0, zorder=3)
        is_outside = not (value.null_low or 0.0) <= (value.value or 0.0) <= (value.null_high or 0.0)
        colour = inks.series[1] if has_null else inks.muted
        axes.plot(
            [x],
            [value.value or 0.0],
            marker="o" if has_null else "D",
            markersize=size,
            markerfacecolor=colour if is_outside and has_null else inks.paper,
            markeredgecolor=colour,
            markeredgewidth=0.8,
            linestyle="",
            zorder=4,
        )


def utilisation_pictures(report: SpecialisationReport, layer: int) -> Iterator[Picture]:
    """Yield the share of tokens that select each expert of a layer, a panel per class with its null."""
    values = [
        one for one in report.values if one.measure == "utilisation" and one.layer == layer and one.value is not None
    ]
    if not values:
        return
    record = next(one for one in report.layers if one.layer == layer)
    panels = _farthest(_by_label(values))
    left_out = len(report.classes) - len(panels)
    caption = (
        f"Share of a class's {report.unit}s that select each expert of layer {layer}; bars are {INTERVAL}, grey boxes "
        f"hold {PERMUTED}, marks outside of them are full, and the dotted line is a uniform router. {_texts(report)}."
    )
    if left_out > 0:
        caption += f" Classes nearest to their null are not shown ({left_out})."
    outside = sorted(values, key=lambda one: -abs(one.excess or 0.0))[:MAX_DESCRIBED]
    described = "; ".join(
        f"{one.label}, expert {one.expert}: {number(one.value, 3)}, null {number(one.null_mean, 3)}" for one in outside
    )
    what = _Places(
        title="expert",
        y_title=f"share of {report.unit}s",
        place_of=lambda value: value.expert,
        places=range(record.num_experts),
        names=expert_names(report)[: record.num_experts],
        uniform=[record.top_k / record.num_experts] * record.num_experts,
    )
    yield Picture(
        name=file_stem("utilisation", "layer", layer),
        title=f"Utilisation, layer {layer}",
        caption=caption,
        described=described,
        draw=lambda inks: _panels(panels, what, inks),
    )


def co_activation_pictures(report: SpecialisationReport, layer: int) -> Iterator[Picture]:
    """Yield how often two experts of a layer are selected together, over chance."""
    values = [
        one for one in report.values if one.measure == "co_activation" and one.layer == layer and one.value is not None
    ]
    if not values:
        return
    names = expert_names(report)[: next(one.num_experts for one in report.layers if one.layer == layer)]
    pairs = np.full((len(names), len(names)), np.nan)
    shown = np.zeros(pairs.shape, dtype=np.bool_)
    for one in values:
        a, b = one.expert or 0, int(one.other or 0)
        pairs[a, b] = pairs[b, a] = one.value or 0.0
        shown[a, b] = shown[b, a] = not (one.null_low or 0.0) <= (one.value or 0.0) <= (one.null_high or 0.0)
    grid = Grid(title="", rows=names, columns=names, values=pairs, shown=shown, tested=np.isfinite(pairs))
    scale = Scale(unit="log2 ratio to chance", row_title="expert", column_title="expert")
    caption = (
        f"How often a token of layer {layer} selects both experts, over chance that keeps how often each is at each "
        f"rank in each text, as log2. Coloured: outside of 95{NO_BREAK}% of shuffles of the ranks (not adjusted for "
        f"{plural(len(values), 'pair')}); grey: within; a white stroke marks less than chance. {_texts(report)}."
    )
    yield Picture(
        name=file_stem("co-activation", "layer", layer),
        title=f"Co-activation, layer {layer}",
        caption=caption,
        described=strongest([grid]),
        draw=lambda inks: grid_figure([grid], limit_of([grid]), scale, inks),
    )
