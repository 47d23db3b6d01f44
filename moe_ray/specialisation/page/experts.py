"""A sentence per expert: what uses it, what removing it costs, and how certain both are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from moe_ray.formatting import number, p_phrase, percent, plural, share, significant
from moe_ray.specialisation.ablation.records import ALL_LAYERS
from moe_ray.specialisation.ablation.report import MIN_MATCHED, AblationReport, EffectRecord, UnitRecord
from moe_ray.specialisation.measures import MIN_TEXTS, MeasuredValue
from moe_ray.specialisation.report import ALPHA, SpecialisationReport, smallest_visible

DIGITS = 3
NO_TRACE = "its use is not measured: no trace given"
NO_ABLATION = "what removing it costs is not tested: no ablation given"
NOT_REMOVED = "what removing it costs is not tested: the ablation did not remove it"

_Place = tuple[int, int]
RecordT = TypeVar("RecordT", MeasuredValue, EffectRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLine:
    """One expert in words. `use_q` and `cost_q` are the smallest adjusted p-values; None: not tested."""

    layer: int
    expert: int
    name: str
    use: str
    cost: str
    use_q: float | None = None
    cost_q: float | None = None

    @property
    def sentence(self) -> str:
        """All in one sentence."""
        return f"{self.name}: {self.use}; {self.cost}."

    @property
    def is_found(self) -> bool:
        """Whether its use or its removal is significant."""
        return any(q_value is not None and q_value < ALPHA for q_value in (self.use_q, self.cost_q))

    @property
    def order(self) -> tuple[float, float, int, int]:
        """Effects of removal come before differences of use, the most certain first."""
        cost, use = (2.0 if q_value is None else q_value for q_value in (self.cost_q, self.use_q))
        return (cost if cost < ALPHA else 1.0, use, self.layer, self.expert)


def expert_lines(trace: SpecialisationReport | None, ablation: AblationReport | None) -> list[ExpertLine]:
    """Return a line for every expert that was traced or removed, the most certain first."""
    lifts = _by_place([one for one in trace.values if one.measure in ("lift", "utilisation")]) if trace else {}
    effects = _by_place(ablation.effects) if ablation else {}
    units = {(unit.layer, unit.expert): unit for unit in ablation.units} if ablation else {}
    places = dict.fromkeys([*_traced(trace), *units])
    lines = [
        _line(place, trace, lifts.get(place, []), ablation, units.get(place), effects.get(place, []))
        for place in places
    ]
    return sorted(lines, key=lambda line: line.order)


def _traced(trace: SpecialisationReport | None) -> Iterator[_Place]:
    for layer in trace.layers if trace else ():
        for expert in range(layer.num_experts):
            yield layer.layer, expert


def _by_place(found: Sequence[RecordT]) -> dict[_Place, list[RecordT]]:
    by_place: dict[_Place, list[RecordT]] = {}
    for one in found:
        by_place.setdefault((one.layer, one.expert or 0), []).append(one)
    return by_place


def _line(
    place: _Place,
    trace: SpecialisationReport | None,
    measured: Sequence[MeasuredValue],
    ablation: AblationReport | None,
    unit: UnitRecord | None,
    effects: Sequence[EffectRecord],
) -> ExpertLine:
    layer, expert = place
    named = trace if trace is not None else ablation
    assert named is not None
    where = "all layers" if layer == ALL_LAYERS else f"layer {layer}"
    use, use_q = _use(trace, layer, measured)
    cost, cost_q = _cost(ablation, unit, effects)
    return ExpertLine(
        layer=layer,
        expert=expert,
        name=f"Expert {named.expert_name(expert)} of {where}",
        use=use,
        cost=cost,
        use_q=use_q,
        cost_q=cost_q,
    )


def _use(trace: SpecialisationReport | None, layer: int, measured: Sequence[MeasuredValue]) -> tuple[str, float | None]:
    if trace is None:
        return NO_TRACE, None
    if layer == ALL_LAYERS:
        return "its use differs by layer, see there", None
    lifts = [one for one in measured if one.measure == "lift"]
    if not lifts:
        return f"its use is not compared: fewer than two classes of {MIN_TEXTS} texts", None
    if all(one.value == 0 for one in measured if one.measure == "utilisation"):
        return "no text selects it", None
    best = min(lifts, key=lambda one: (2.0 if one.q_value is None else one.q_value, -abs(one.value or 0.0)))
    if best.q_value is None or best.q_value >= ALPHA or best.value is None:
        width = smallest_visible(lifts)
        seen = f" (a factor below {share(width)} would not be seen)" if width else ""
        return f"no class uses it more or less than the others that the data can show{seen}", best.q_value
    factor, low, high = (_factor(value) for value in (best.value, best.low, best.high))
    text = f"{best.label} texts use it {factor} ({low} to {high}) times as often as the classes together"
    null = f"{_factor(best.null_low)} to {_factor(best.null_high)}"
    return f"{text} (by chance {null}, adjusted {p_phrase(best.q_value)})", best.q_value


def _factor(log2_lift: float | None) -> str:
    return "?" if log2_lift is None else share(2**log2_lift)


def _cost(
    report: AblationReport | None, unit: UnitRecord | None, effects: Sequence[EffectRecord]
) -> tuple[str, float | None]:
    """Return what removal costs in words, and the smallest q of a specific effect."""
    if report is None:
        return NO_ABLATION, None
    if unit is None:
        return NOT_REMOVED, None
    if not unit.num_removed:
        return "removing it changes nothing, because no token selects it", None
    tested = [one for one in effects if one.kind == "specific" and one.q_value is not None and one.value is not None]
    if not tested:
        return "what removing it costs is not tested: every class has too few texts", None
    best = min(tested, key=lambda one: (one.q_value or 0.0, -abs(one.value or 0.0)))
    if best.q_value is None or best.q_value >= ALPHA:
        headroom = _headroom(report, [one.label for one in tested])
        return f"{_nothing_found(report, tested)}{headroom}", best.q_value
    total = next(one for one in effects if one.kind == "total" and one.label == best.label)
    text = f"{_amount(total, report.unit)} ({report.operation}), {_than_controls(best, unit, report)}"
    return f"{text}{_only_it(effects, best)}{_headroom(report, [best.label])}", best.q_value


def _amount(total: EffectRecord, unit: str) -> str:
    """Return "removing it costs legal 0.12 (0.08 to 0.17) bits per byte". Costs are positive."""
    gains = (total.value or 0.0) > 0
    sign = 1 if gains else -1
    text = f"removing it {'gains' if gains else 'costs'} {total.label} {number(sign * (total.value or 0.0), DIGITS)}"
    if total.low is not None and total.high is not None:
        low, high = sorted((sign * total.low, sign * total.high))
        text += f" ({number(low, DIGITS)} to {number(high, DIGITS)})"
    return f"{text} {unit}"


def _than_controls(best: EffectRecord, unit: UnitRecord, report: AblationReport) -> str:
    than = "worse" if (best.value or 0.0) < 0 else "better"
    text = f"{number(abs(best.value or 0.0), DIGITS)} {than} than {report.num_draws} matched controls"
    if unit.matched < MIN_MATCHED:
        text += f", of which only {percent(unit.matched)} could be matched"
    return f"{text} (adjusted {p_phrase(best.q_value)})"


def _only_it(effects: Sequence[EffectRecord], best: EffectRecord) -> str:
    """Return whether the class needs it more than the others do, where that was tested."""
    selective = next((one for one in effects if one.kind == "selective" and one.label == best.label), None)
    if selective is None or selective.q_value is None:
        return ""
    if selective.q_value >= ALPHA or (selective.value or 0.0) * (best.value or 0.0) <= 0:
        return "; not shown to differ from the other classes"
    return f"; beyond the other classes by {number(abs(selective.value or 0.0), DIGITS)}"


def _nothing_found(report: AblationReport, tested: Sequence[EffectRecord]) -> str:
    least = max((one.detectable for one in tested if one.detectable is not None), default=None)
    seen = f" (effects below {significant(least)} {report.unit} would not be seen)" if least else ""
    margins = [one.equivalence_p for one in tested if one.equivalence_p is not None]
    if report.margin is not None and margins and max(margins) < ALPHA:
        within = number(report.margin, DIGITS)
        return f"removing it changes each class by less than {within} {report.unit} beyond matched controls"
    return f"removing it has no effect beyond matched controls that the data can show{seen}"


def _headroom(report: AblationReport, labels: Sequence[str]) -> str:
    flat = [label for label in report.no_headroom if label in labels]
    return f"; no headroom in the accuracy on {', '.join(flat)}" if flat else ""


def headline(lines: Sequence[ExpertLine], trace: SpecialisationReport | None, ablation: AblationReport | None) -> str:
    """Return how many experts are needed and used differently."""
    parts = []
    if ablation is not None:
        needed = sum(line.cost_q is not None and line.cost_q < ALPHA for line in lines)
        removed = plural(len(ablation.units), "removed expert")
        parts.append(f"{needed} of {removed} {_do(needed, 'change')} some class's score beyond matched controls")
    if trace is not None and len(trace.classes) > 1:
        used = sum(line.use_q is not None and line.use_q < ALPHA for line in lines)
        experts = plural(sum(layer.num_experts for layer in trace.layers), "expert")
        parts.append(
            f"{used} of {experts} {'is' if used == 1 else 'are'} used by some class more or less than by others"
        )
    elif trace is not None:
        parts.append("no classes are compared")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _do(num: int, verb: str) -> str:
    return f"{verb}s" if num == 1 else verb
