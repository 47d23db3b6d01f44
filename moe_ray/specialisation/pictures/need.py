"""Pictures of what removing experts costs: effects by layer and expert, a forest plot, and ranks of use and need."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.formatting import NO_BREAK, interval, number, plural, probability, signed
from moe_ray.report.svg import few_ticks
from moe_ray.specialisation.ablation.records import ALL_LAYERS
from moe_ray.specialisation.ablation.report import AblationReport, EffectRecord
from moe_ray.specialisation.pictures.canvas import (
    SMALL_PT,
    TINY_PT,
    WIDTH_PT,
    Inks,
    Picture,
    axes_at,
    blank,
    file_stem,
    shown_name,
)
from moe_ray.specialisation.pictures.grids import (
    GridCell,
    Scale,
    grid_figure,
    grids_by_class,
    limit_of,
    part_of,
    pictures_of,
    strongest,
)
from moe_ray.specialisation.report import ALPHA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 40
ROW_PT, FOREST_LEFT_PT, FOREST_RIGHT_PT = 11.5, 150.0, 125.0
FOREST_TOP_PT, FOREST_BOTTOM_PT = 16.0, 28.0
RANKS_PT = 236.0
MAX_NAMED = 80
# Rounding errors are not drawn as if they were effects.
MIN_SCALE = 0.001


def pictures_of_need(report: AblationReport) -> list[Picture]:
    """Return all pictures of an ablation's report."""
    return [*effect_pictures(report), *forest_pictures(report), *rank_pictures(report)]


def unit_name(report: AblationReport, layer: int, expert: int) -> str:
    """Return a short name: "expert 3, layer 2"."""
    where = "all layers" if layer == ALL_LAYERS else f"layer {layer}"
    return f"expert {report.expert_name(expert)}, {where}"


def _texts(report: AblationReport) -> str:
    classes = ", ".join(f"{name} {size}" for name, size in report.classes.items())
    return f"n{NO_BREAK}={NO_BREAK}{plural(report.num_texts, 'text')} ({classes})"


def _specific(report: AblationReport) -> list[EffectRecord]:
    return [one for one in report.effects if one.kind == "specific" and one.value is not None]


def effect_pictures(report: AblationReport) -> Iterator[Picture]:
    """Yield heatmaps of the specific effects of each class, layer and expert."""
    effects = _specific(report)
    if not effects:
        return
    cells = [GridCell(one.layer, one.label, one.expert, one.value or 0.0, one.q_value) for one in effects]
    numbers = sorted({one.layer for one in effects})
    layers = [(layer, "all layers" if layer == ALL_LAYERS else f"layer {layer}") for layer in numbers]
    names = [report.expert_name(expert) for expert in range(1 + max(one.expert for one in effects))]
    grids, rows = grids_by_class(cells, layers, names, ALPHA)
    limit = limit_of(grids)
    scale = Scale(unit=f"effect, {report.unit}", row_title=rows, column_title="expert", digits=2)
    parts = pictures_of(grids)
    for at, part in enumerate(parts):
        caption = (
            f"Specific effect of removing an expert ({report.operation}): change of the score, {report.unit}, less the "
            f"mean of {report.num_draws} matched removals from other experts; a loss is negative (white stroke). "
            f"Coloured: q{NO_BREAK}<{NO_BREAK}{ALPHA}, adjusted over {report.family}; grey: not significant; hatched: "
            f"not tested. {_texts(report)}."
        )
        yield Picture(
            name=file_stem("effects", at + 1),
            title=f"Effects of removal{part_of(at, len(parts))}",
            caption=caption,
            described=strongest(part),
            draw=partial(grid_figure, part, limit, scale),
        )


def forest_pictures(report: AblationReport) -> Iterator[Picture]:
    """Yield the specific effects with intervals, those with the smallest q first."""
    effects = sorted(_specific(report), key=_certainty)
    shown = [one for one in effects if one.low is not None and one.high is not None][:MAX_ROWS]
    if not shown:
        return
    caption = (
        f"Specific effects of removal ({report.operation}), {report.unit}; left of 0 is a loss. Bars are "
        f"95{NO_BREAK}% intervals over texts and control draws, not adjusted; full marks are significant "
        f"(q{NO_BREAK}<{NO_BREAK}{ALPHA}, {report.family}). n is the number of texts of the class."
    )
    if report.margin is not None:
        caption += f" The grey band holds effects smaller than {number(report.margin, 3)} (equivalence)."
    if len(shown) < len(effects):
        caption += f" The {len(shown)} with the smallest q of {len(effects)}."
    described = "; ".join(
        f"{_row_name(report, one)} {signed(one.value)} {interval(one.low, one.high)}" for one in shown[:12]
    )
    yield Picture(
        name="forest",
        title="Effects of removal with intervals",
        caption=caption,
        described=described,
        draw=lambda inks: _forest(report, shown, inks),
    )


def _certainty(effect: EffectRecord) -> tuple[float, float, int, int, str]:
    q_value = 2.0 if effect.q_value is None else effect.q_value
    return (q_value, -abs(effect.value or 0.0), effect.layer, effect.expert, effect.label)


def _row_name(report: AblationReport, effect: EffectRecord) -> str:
    return f"{unit_name(report, effect.layer, effect.expert)}: {effect.label}"


def _forest(report: AblationReport, shown: Sequence[EffectRecord], inks: Inks) -> "Figure":
    height = ROW_PT * len(shown)
    figure = blank(FOREST_TOP_PT + height + FOREST_BOTTOM_PT)
    width = WIDTH_PT - FOREST_LEFT_PT - FOREST_RIGHT_PT
    axes = axes_at(figure, inks, (FOREST_LEFT_PT, FOREST_TOP_PT, width, height))
    if report.margin:
        axes.axvspan(-report.margin, report.margin, facecolor=inks.rule, alpha=0.6, linewidth=0)
    axes.axvline(0, color=inks.muted, linewidth=0.8)
    right = axes.get_yaxis_transform()
    for at, one in enumerate(shown):
        _draw_effect(axes, at, one, inks)
        bounds = f"{_plain(one.value)} [{_plain(one.low)}, {_plain(one.high)}]"
        axes.text(1.02, at, bounds, transform=right, fontsize=TINY_PT, va="center", clip_on=False)
        q_text = "not tested" if one.q_value is None else probability(one.q_value)
        axes.text(1.52, at, q_text, transform=right, fontsize=TINY_PT, va="center", ha="right", clip_on=False)
    for place, title, side in ((1.02, "value and 95 % interval", "left"), (1.52, "q", "right")):
        axes.text(place, -1, title, transform=right, fontsize=TINY_PT, va="center", ha=side, color=inks.muted)
    names = [f"{shown_name(_row_name(report, one), 38)}  n={one.num_texts}" for one in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelsize=TINY_PT)
    axes.spines["left"].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -MIN_SCALE), max(high, MIN_SCALE))
    axes.set_xlabel(f"specific effect, {report.unit}", fontsize=SMALL_PT)
    few_ticks(axes.xaxis)
    return figure


def _plain(value: float | None) -> str:
    """Return a number without a sign at zero."""
    return number(None if value is None else round(value, 3) + 0.0)


def _draw_effect(axes: "Axes", at: int, one: EffectRecord, inks: Inks) -> None:
    is_found = one.q_value is not None and one.q_value < ALPHA
    colour = inks.series[1] if is_found else inks.muted
    axes.plot([one.low or 0.0, one.high or 0.0], [at, at], color=colour, linewidth=1.6 if is_found else 0.9)
    axes.plot(
        [one.value or 0.0],
        [at],
        marker="s" if is_found else "o",
        markersize=4.2,
        markerfacecolor=colour if is_found else inks.paper,
        markeredgecolor=colour,
        markeredgewidth=0.8,
        linestyle="",
    )


class _UnitRank(NamedTuple):
    """An expert by use and by need: `cost` is its mean loss over texts, `is_found` whether a specific effect is."""

    name: str
    used: float
    cost: float
    is_found: bool


def unit_ranks(report: AblationReport) -> list[_UnitRank]:
    """Return all removed units with their selections and their mean total loss over texts."""
    found = []
    by_unit: dict[tuple[int, int], list[EffectRecord]] = {}
    for one in report.effects:
        by_unit.setdefault((one.layer, one.expert), []).append(one)
    for unit in report.units:
        own = by_unit.get((unit.layer, unit.expert), [])
        totals = [one for one in own if one.kind == "total" and one.value is not None]
        num_texts = sum(one.num_texts for one in totals)
        cost = -sum((one.value or 0.0) * one.num_texts for one in totals) / num_texts if num_texts else 0.0
        is_found = any(one.kind == "specific" and one.q_value is not None and one.q_value < ALPHA for one in own)
        layer = "" if unit.layer == ALL_LAYERS else f"@{unit.layer}"
        found.append(_UnitRank(f"{report.expert_name(unit.expert)}{layer}", float(unit.selected), cost, is_found))
    return found


def rank_pictures(report: AblationReport) -> Iterator[Picture]:
    """Yield ranks by use against ranks by cost of removal, with their correlation."""
    units = unit_ranks(report)
    if len(units) < 3:
        return
    from scipy.stats import rankdata

    used = rankdata([-unit.used for unit in units])
    cost = rankdata([-unit.cost for unit in units])
    agreement = next((one for one in report.agreement if one.effect == "total"), None)
    said = "not defined"
    if agreement is not None and agreement.correlation is not None:
        said = f"{number(agreement.correlation, 2)} {interval(agreement.low, agreement.high, 2)}"
    caption = (
        "Rank 1 is the expert that is selected most often, and the one whose removal costs most (total effect, mean "
        f"over texts). On the line, use and need would agree. Spearman's correlation {said}, 95{NO_BREAK}% interval "
        f"over texts; full marks have a significant specific effect. {plural(len(units), 'expert')}, {_texts(report)}."
    )
    yield Picture(
        name="ranks",
        title="Use and need",
        caption=caption,
        described=f"Rank correlation {said}",
        draw=lambda inks: _ranks(units, used, cost, inks),
    )


def _ranks(units: Sequence[_UnitRank], used: FloatArray, cost: FloatArray, inks: Inks) -> "Figure":
    figure = blank(RANKS_PT + 44, width_pt=RANKS_PT + 70)
    axes = axes_at(figure, inks, (44, 8, RANKS_PT, RANKS_PT))
    ends = (0.4, len(units) + 0.6)
    axes.plot([1, len(units)], [1, len(units)], color=inks.rule, linewidth=1, linestyle="--", zorder=1)
    is_named = len(units) <= MAX_NAMED
    for unit, x, y in zip(units, np.asarray(used).tolist(), np.asarray(cost).tolist(), strict=True):
        colour = inks.series[1] if unit.is_found else inks.muted
        face = colour if unit.is_found else inks.paper
        axes.plot([x], [y], marker="s" if unit.is_found else "o", markersize=4 if is_named else 2.5,
                  markerfacecolor=face, markeredgecolor=colour, markeredgewidth=0.8, linestyle="")  # fmt: skip
        if is_named:
            name = shown_name(unit.name, 12)
            axes.annotate(name, (x, y), (3, 2.5), textcoords="offset points", fontsize=TINY_PT - 0.5)
    axes.set_xlim(*ends)
    axes.set_ylim(ends[1], ends[0])
    axes.xaxis.set_inverted(False)
    axes.set_xlabel("rank by use (selections)", fontsize=SMALL_PT)
    axes.set_ylabel("rank by need (cost of removal)", fontsize=SMALL_PT)
    few_ticks(axes.xaxis)
    few_ticks(axes.yaxis)
    return figure
