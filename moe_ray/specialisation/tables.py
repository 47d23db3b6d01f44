"""Tables of a report for the terminal."""

from moe_ray.formatting import NONE, interval, number, plural, probability
from moe_ray.report.tables import plain_table
from moe_ray.report.text_table import TextTable
from moe_ray.specialisation.measures import ALL_TEXTS, MeasuredValue
from moe_ray.specialisation.report import SpecialisationReport

DIGITS = 4
# Measures of whole layers in the order of the table, and what it calls them.
LAYER_TITLES = {
    "generalised_js": "JS, bits",
    "mean_pairwise_js": "JS of pairs, bits",
    "conditional_information": "JS given token",
    "cross_layer_information": "next layer, bits",
    "load_entropy": "load entropy",
    "max_violation": "MaxVio",
    "entropy": "entropy, bits",
    "set_margin": "set margin",
}
CLASS_TITLES = {
    "load_entropy": "load entropy",
    "max_violation": "MaxVio",
    "entropy": "entropy, bits",
    "set_margin": "set margin",
}


def layer_table(report: SpecialisationReport) -> TextTable:
    """One row per layer and measure of the whole layer: value, null, excess, interval, q."""
    rest = f"  {report.model_type}, {plural(report.num_texts, 'text')}, {plural(report.num_tokens, report.unit)}"
    table = plain_table("Layers", rest)
    table.add_column("layer", justify="right", no_wrap=True)
    table.add_column("measure", overflow="fold")
    for title in ("value", "null", "null 95 %", "excess", "95 % interval", "q"):
        table.add_column(title, justify="right", no_wrap=True)
    order = list(LAYER_TITLES)
    chosen = [value for value in report.values if _is_shown(value, report)]
    for value in sorted(chosen, key=lambda one: (one.layer, order.index(one.measure))):
        table.add_row(*_cells(value))
    return table


def _is_shown(value: MeasuredValue, report: SpecialisationReport) -> bool:
    if value.expert is not None or value.measure not in LAYER_TITLES:
        return False
    if value.measure == "mean_pairwise_js":
        return len(report.classes) > 2
    return value.label in (None, ALL_TEXTS)


def _cells(value: MeasuredValue) -> list[str]:
    return [
        str(value.layer),
        LAYER_TITLES[value.measure],
        number(value.value, DIGITS),
        number(value.null_mean, DIGITS),
        interval(value.null_low, value.null_high, DIGITS),
        number(value.excess, DIGITS),
        interval(value.low, value.high, DIGITS),
        probability(value.q_value),
    ]


def class_table(report: SpecialisationReport) -> TextTable:
    """One row per layer and class: how balanced and how decided the routing of its texts is, each beside its null."""
    table = plain_table("Classes", "  value (null)")
    for title in ("layer", "class", "texts", *CLASS_TITLES.values()):
        table.add_column(title, justify="left" if title == "class" else "right", no_wrap=True)
    found = {(value.layer, value.label, value.measure): value for value in report.values if value.expert is None}
    for layer in report.layers:
        for label, size in report.classes.items():
            cells = [_with_null(found.get((layer.layer, label, name))) for name in CLASS_TITLES]
            if any(cell != NONE for cell in cells):
                table.add_row(str(layer.layer), label, str(size), *cells)
    for label, size in report.too_small.items():
        table.add_row(NONE, label, str(size), *(NONE for _ in CLASS_TITLES))
    return table


def _with_null(value: MeasuredValue | None) -> str:
    return NONE if value is None else f"{number(value.value, 2)} ({number(value.null_mean, 2)})"
