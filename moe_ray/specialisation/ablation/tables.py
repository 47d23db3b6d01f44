"""The table of an ablation for the terminal."""

from collections.abc import Sequence

from moe_ray.formatting import NONE, interval, number, plural, probability
from moe_ray.report.tables import plain_table
from moe_ray.report.text_table import TextTable
from moe_ray.specialisation.ablation.records import ALL_LAYERS
from moe_ray.specialisation.ablation.report import AblationReport, EffectRecord

DIGITS = 3


def effects_table(report: AblationReport) -> TextTable:
    """One row per expert (EXPERT@LAYER) and class: its total, specific and selective effects, the latter with q."""
    rest = (
        f"  {report.operation}, {report.unit}, negative is a loss; {plural(report.num_texts, 'text')}{_split(report)}"
    )
    table = plain_table("Effects of removal", rest)
    for title in ("expert", "class"):
        table.add_column(title, justify="left", no_wrap=True)
    for title in ("total", "specific", "95 %", "q", "selective", "q"):
        table.add_column(title, justify="right", no_wrap=True)
    found = {(unit_label(one.layer, one.expert, one.with_experts), one.label, one.kind): one for one in report.effects}
    for unit in report.units:
        name = unit_label(unit.layer, unit.expert, unit.with_experts)
        for label in report.classes:
            total, specific, selective = (found.get((name, label, kind)) for kind in ("total", "specific", "selective"))
            cells = [_value(total), _value(specific), _interval(specific), _q(specific), _value(selective)]
            table.add_row(name, label, *cells, _q(selective))
    return table


def unit_label(layer: int, expert: int, with_experts: Sequence[int]) -> str:
    """Return a unit as EXPERT@LAYER, experts that are removed together as 1+3@LAYER."""
    name = "+".join(map(str, (expert, *with_experts)))
    return name if layer == ALL_LAYERS else f"{name}@{layer}"


def _split(report: AblationReport) -> str:
    if report.split is None:
        return ""
    return f", other than the {report.split.num_choosing} for choosing"


def interaction_table(report: AblationReport) -> TextTable:
    """One row per set of experts and class: what it costs beyond the sum of its experts alone."""
    rest = f"  {report.unit}, negative: more than the sum of each alone{_split(report)}"
    table = plain_table("Beyond single removals", rest)
    for title in ("experts", "class"):
        table.add_column(title, justify="left", no_wrap=True)
    for title in ("beyond", "95 %", "q"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in report.interactions:
        name = unit_label(one.layer, one.experts[0], one.experts[1:])
        bounds = interval(one.low, one.high, DIGITS)
        table.add_row(name, one.label, number(one.value, DIGITS), bounds, probability(one.q_value))
    return table


def _value(effect: EffectRecord | None) -> str:
    return NONE if effect is None else number(effect.value, DIGITS)


def _interval(effect: EffectRecord | None) -> str:
    return NONE if effect is None else interval(effect.low, effect.high, DIGITS)


def _q(effect: EffectRecord | None) -> str:
    return NONE if effect is None else probability(effect.q_value)


def summary_lines(report: AblationReport) -> list[str]:
    """Return how use and need agree over the experts, in words."""
    lines = []
    for one in report.agreement:
        if one.correlation is not None:
            bounds = interval(one.low, one.high, 2)
            lines.append(
                f"How often experts are selected and what their removal costs ({one.effect} effect): "
                f"rank correlation {number(one.correlation, 2)} {bounds}"
            )
    return lines
