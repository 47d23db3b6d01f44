"""The picture of a comparison: how well matched experts correspond, layer by layer, beside the null."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe_ray.formatting import NO_BREAK, interval, number, plural
from moe_ray.specialisation.compared.records import ExpertMatch, LayerMatch, TraceComparison
from moe_ray.specialisation.compared.tables import is_real
from moe_ray.specialisation.pictures.canvas import SMALL_PT, WIDTH_PT, Inks, Picture, axes_at, blank, file_stem
from moe_ray.specialisation.report import ALPHA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT_PT, HEIGHT_PT, MAX_COLUMN_PT = 44.0, 150.0, 60.0


def match_picture(found: TraceComparison, number_of: int) -> Picture:
    """Return the similarity of matched experts by layer."""
    caption = (
        f"Correlation of the profiles of matched experts of {found.a} and {found.b}, by "
        f"{'share of each text' if found.matched_by == 'texts' else 'lift by class'}. The stroke is the mean of a "
        f"layer, the grey box holds 95{NO_BREAK}% of this mean after the experts of {found.b} were mixed at random and "
        f"matched again; full marks are experts that match better than chance (q{NO_BREAK}<{NO_BREAK}{ALPHA}, adjusted "
        f"over {plural(len(found.experts), 'pair')}). n{NO_BREAK}={NO_BREAK}{plural(found.num_shared, 'shared text')}."
    )
    described = "; ".join(
        f"layer {one.layer_a}: {number(one.similarity, 2)}, null {interval(one.null_low, one.null_high, 2)}"
        for one in found.layers
    )
    return Picture(
        name=file_stem("matches", number_of),
        title=f"Matched experts: {found.a} and {found.b}",
        caption=caption,
        described=described,
        draw=lambda inks: _figure(found.layers, found.experts, inks),
    )


def _figure(layers: Sequence[LayerMatch], experts: Sequence[ExpertMatch], inks: Inks) -> "Figure":
    column = min(MAX_COLUMN_PT, (WIDTH_PT - LEFT_PT - 10) / len(layers))
    figure = blank(HEIGHT_PT + 44, width_pt=max(180.0, LEFT_PT + column * len(layers) + 10))
    axes = axes_at(figure, inks, (LEFT_PT, 8, column * len(layers), HEIGHT_PT))
    for at, layer in enumerate(layers):
        own = [one for one in experts if (one.layer_a, one.layer_b) == (layer.layer_a, layer.layer_b)]
        _draw_layer(axes, at, layer, own, inks)
    names = [str(one.layer_a) if one.layer_a == one.layer_b else f"{one.layer_a}:{one.layer_b}" for one in layers]
    step = next(step for step in (1, 2, 4, 8, 16, 32, 4096) if step * column >= 4.2 * max(map(len, names)) + 3)
    axes.set_xticks(range(0, len(layers), step), names[::step])
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xlabel("layer", fontsize=SMALL_PT)
    axes.set_ylabel("correlation of profiles", fontsize=SMALL_PT)
    axes.axhline(0, color=inks.rule, linewidth=0.6, zorder=0)
    return figure


def _draw_layer(axes: "Axes", at: int, layer: LayerMatch, experts: Sequence[ExpertMatch], inks: Inks) -> None:
    from matplotlib.patches import Rectangle

    box = Rectangle((at - 0.4, layer.null_low), 0.8, layer.null_high - layer.null_low)
    box.set(facecolor=inks.rule, edgecolor=inks.muted, linewidth=0.4)
    axes.add_patch(box)
    axes.plot([at - 0.4, at + 0.4], [layer.similarity] * 2, color=inks.ink, linewidth=1.4, zorder=3)
    for place, one in enumerate(sorted(experts, key=lambda match: match.expert_a)):
        x = at - 0.3 + 0.6 * (place + 0.5) / len(experts)
        colour = inks.series[1] if is_real(one) else inks.muted
        axes.plot([x], [one.similarity], marker="o", markersize=2.6, markeredgewidth=0.6, markeredgecolor=colour,
                  markerfacecolor=colour if is_real(one) else inks.paper, linestyle="", zorder=4)  # fmt: skip
