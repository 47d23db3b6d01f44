"""Tables and sentences of a comparison of traces."""

from collections.abc import Iterator, Sequence

from moe_ray.formatting import NONE, interval, listed, number, plural, probability, signed
from moe_ray.report.tables import plain_table
from moe_ray.report.text_table import TextTable
from moe_ray.specialisation.compared.records import ExpertMatch, TraceComparison, UseDifference
from moe_ray.specialisation.report import ALPHA

DIGITS = 2
TITLES = {"load_entropy": "load entropy", "generalised_js": "JS, bits"}


def match_table(found: TraceComparison) -> TextTable:
    """One row per pair of layers: how well their experts match, beside the null."""
    table = plain_table("Match", f"  experts of {found.b} with those of {found.a}")
    for title in ("layer", "beyond chance", "similarity", "null 95 %", "q"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in found.layers:
        pairs = [one for one in found.experts if (one.layer_a, one.layer_b) == (layer.layer_a, layer.layer_b)]
        table.add_row(
            _both(layer.layer_a, layer.layer_b),
            f"{sum(map(is_real, pairs))} of {len(pairs)}",
            number(layer.similarity, DIGITS),
            interval(layer.null_low, layer.null_high, DIGITS),
            probability(layer.q_value),
        )
    return table


def layer_difference_table(found: TraceComparison) -> TextTable:
    """One row per pair of layers and measure of the whole layer."""
    table = plain_table("Layers", f"  A {found.a}, B {found.b}")
    for title in ("layer", "measure", "A", "B", "B - A", "95 %", "q"):
        table.add_column(title, justify="left" if title == "measure" else "right", no_wrap=True)
    for one in found.differences:
        if one.measure != "lift":
            values = [number(one.value_a, 3), number(one.value_b, 3)]
            table.add_row(_both(one.layer_a, one.layer_b), TITLES[one.measure], *values, *_difference(one, 3))
    return table


def _both(a: int, b: int) -> str:
    return str(a) if a == b else f"{a}:{b}"


def _difference(one: UseDifference, digits: int) -> list[str]:
    q_text = NONE if one.p_value is None else probability(one.q_value)
    return [signed(one.difference, digits), interval(one.low, one.high, digits), q_text]


def is_real(match: ExpertMatch) -> bool:
    """Whether two experts match better than chance."""
    return match.q_value is not None and match.q_value < ALPHA


def expert_table(found: TraceComparison, top: int) -> TextTable:
    """One row per matched pair and class, those that differ most certainly first; chance matches come last."""
    table = plain_table("Matched experts", "  A = B with their log2 lifts; chance: matched no better than at random")
    for title in ("layer", "experts", "similarity (null)", "match", "class", "A", "B", "B - A", "95 %", "q"):
        table.add_column(title, justify="left" if title in ("match", "class") else "right", no_wrap=True)
    for match, one in rows_of(found)[:top]:
        cells = [NONE] * 6
        if one is not None:
            lifts = [signed(one.value_a, DIGITS), signed(one.value_b, DIGITS)]
            cells = [one.label or "", *lifts, *_difference(one, DIGITS)]
        table.add_row(
            _both(match.layer_a, match.layer_b),
            f"{match.expert_a} = {match.expert_b}",
            f"{number(match.similarity, DIGITS)} ({number(match.null_mean, DIGITS)})",
            f"q {probability(match.q_value)}" if is_real(match) else "chance",
            *cells,
        )
    return table


def rows_of(found: TraceComparison) -> list[tuple[ExpertMatch, UseDifference | None]]:
    """Return all matched pairs with their differences by class, the most certain first."""
    by_pair: dict[tuple[int, int, int | None, int | None], list[UseDifference]] = {}
    for one in found.differences:
        by_pair.setdefault((one.layer_a, one.layer_b, one.expert_a, one.expert_b), []).append(one)
    rows: list[tuple[ExpertMatch, UseDifference | None]] = []
    for match in found.experts:
        own = by_pair.get((match.layer_a, match.layer_b, match.expert_a, match.expert_b), [])
        rows += [(match, one) for one in own] or [(match, None)]
    return sorted(rows, key=_certainty)


def _certainty(row: tuple[ExpertMatch, UseDifference | None]) -> tuple[bool, float, float]:
    match, one = row
    if one is None or not is_real(match):
        return (not is_real(match), 2.0, -match.similarity)
    q_value = 2.0 if one.q_value is None else one.q_value
    return (False, q_value, -abs(one.difference or 0.0))


def comparison_lines(found: TraceComparison) -> Iterator[str]:
    """Yield what was found in words."""
    num_real = sum(map(is_real, found.experts))
    how = "their shares of the texts that both traces hold" if found.matched_by == "texts" else "their lift by class"
    yield (
        f"{num_real} of {plural(len(found.experts), 'matched expert')} correspond to each other better than chance "
        f"(q < {ALPHA}), by {how}."
    )
    num_layers = sum(one.q_value is not None and one.q_value < ALPHA for one in found.layers)
    yield f"In {num_layers} of {plural(len(found.layers), 'layer')} the experts as a whole match better than chance."
    for layer in found.layers:
        yield from _unmatched(found.a, layer.layer_a, layer.unmatched_a)
        yield from _unmatched(found.b, layer.layer_b, layer.unmatched_b)
    lifts = [one for one in found.differences if one.measure == "lift" and one.p_value is not None]
    if lifts:
        num = sum(one.q_value is not None and one.q_value < ALPHA for one in lifts)
        paired = "over the same texts" if found.is_paired else "over different texts"
        yield f"{num} of {plural(len(lifts), 'tested lift')} differ (q < {ALPHA}), {paired}."
    elif found.classes:
        yield "No lift is compared: no match is better than chance."
    for note in found.notes:
        yield f"Note: {note}"


def _unmatched(name: str, layer: int, experts: Sequence[int]) -> Iterator[str]:
    if experts:
        yield f"Without a partner in layer {layer} of {name}: {plural(len(experts), 'expert')}, " + listed(
            [str(expert) for expert in experts]
        )
