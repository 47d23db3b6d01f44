"""The table of an ablation for the terminal."""

from moe_ray.formatting import NONE, interval, number, plural, probability
from moe_ray.report.tables import plain_table
from moe_ray.report.text_table import TextTable
from moe_ray.specialisation.ablation.records import ALL_LAYERS
from moe_ray.specialisation.ablation.report import AblationReport, EffectRecord

DIGITS = 3


def effects_table(report: AblationReport) -> TextTable:
    """One row per expert (EXPERT@LAYER) and class: its total, specific and selective effects, the latter with q."""
    rest = f"  {report.operation}, {report.unit}, negative is a loss; {plural(report.num_texts, 'text')}"
    table = plain_table("Effects of removal", rest)
    for title in ("expert", "class"):
        table.add_column(title, justify="left", no_wrap=True)
    for title in ("total", "specific", "95 %", "q", "selective", "q"):
        table.add_column(title, justify="right", no_wrap=True)
    found = {(one.layer, one.expert, one.label, one.kind): one for one in report.effects}
    for unit in report.units:
        name = str(unit.expert) if unit.layer == ALL_LAYERS else f"{unit.expert}@{unit.layer}"
        for label in report.classes:
            total, specific, selective = (
                found.get((unit.layer, unit.expert, label, kind)) for kind in ("total", "specific", "selective")
            )
            cells = [_value(total), _value(specific), _interval(specific), _q(specific), _value(selective)]
            table.add_row(name, label, *cells, _q(selective))
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
