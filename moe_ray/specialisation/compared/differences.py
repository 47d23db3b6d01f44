"""How the use of matched experts differs, with intervals over texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.specialisation import information as info
from moe_ray.specialisation.compared.records import DifferenceMeasure, ExpertMatch, UseDifference
from moe_ray.specialisation.measures import log_lift, number_or_none
from moe_ray.specialisation.over_texts import Jackknife, class_sums, jackknife
from moe_ray.specialisation.records import LayerTrace
from moe_ray.specialisation.report import ALPHA

# A measure of class totals [..., C, E] -> [..., M].
_OfTotals = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedTexts:
    """The texts of one of two traces: `shared` are the places of the texts that both hold, in one order for both.

    `used` are the places of the texts that differences are over, and `codes` their classes; paired traces use the
    shared texts alone.
    """

    shared: IntArray
    used: IntArray
    codes: IntArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedPair:
    """The texts of A and B, and the names of the classes that are compared; fewer than two are not compared."""

    a: ComparedTexts
    b: ComparedTexts
    names: tuple[str, ...]
    is_paired: bool
    num_relabelled: int


def class_profile(layer: LayerTrace, texts: ComparedTexts, num_classes: int) -> FloatArray:
    """Return the log2 lift of each expert in each class [E, C]."""
    totals = class_sums(layer.selected[texts.used], texts.codes, num_classes)
    found: FloatArray = log_lift(totals).reshape(num_classes, -1).T
    return found


class _Found(NamedTuple):
    """Values of A and B and the jackknife of their difference, [M] each."""

    a: FloatArray
    b: FloatArray
    difference: Jackknife


def differences_of(
    a: LayerTrace, b: LayerTrace, texts: ComparedPair, experts: Sequence[ExpertMatch]
) -> Iterator[UseDifference]:
    """Yield B less A for two layers as a whole, and for the lift of each class in their matched experts."""
    where = {"layer_a": a.record.layer, "layer_b": b.record.layer}
    whole = _found(a, b, texts, lambda totals: info.load_entropy(totals.sum(axis=-2))[..., None])
    yield from _differences("load_entropy", "share of log2 E", whole, [where])
    if len(texts.names) < 2:
        return
    divergence = _found(a, b, texts, lambda totals: info.generalised_js(totals)[..., None])
    yield from _differences("generalised_js", "bits", divergence, [where])
    pairs = [one for one in experts if (one.layer_a, one.layer_b) == (a.record.layer, b.record.layer)]
    columns_a, columns_b = [one.expert_a for one in pairs], [one.expert_b for one in pairs]
    lifts = _found(a, b, texts, lambda totals: _lifts(totals, columns_a), lambda totals: _lifts(totals, columns_b))
    places = [
        {**where, "label": name, "expert_a": one.expert_a, "expert_b": one.expert_b}
        for name in texts.names
        for one in pairs
    ]
    is_real = [one.q_value is not None and one.q_value < ALPHA for _ in texts.names for one in pairs]
    for found, is_tested in zip(_differences("lift", "log2 ratio", lifts, places), is_real, strict=True):
        yield found if is_tested else found.model_copy(update={"p_value": None})


def _lifts(totals: FloatArray, experts: Sequence[int]) -> FloatArray:
    """Return the log2 lifts of some experts, class by class."""
    shape = totals.shape
    lifts = log_lift(totals).reshape(shape)[..., list(experts)]
    return lifts.reshape(*shape[:-2], -1)


def _found(a: LayerTrace, b: LayerTrace, texts: ComparedPair, of_a: _OfTotals, of_b: _OfTotals | None = None) -> _Found:
    of_b = of_b or of_a
    rows_a, rows_b = a.selected[texts.a.used], b.selected[texts.b.used]
    num_classes = max(1, len(texts.names))
    values = [
        of(class_sums(rows, own.codes, num_classes))
        for of, rows, own in ((of_a, rows_a, texts.a), (of_b, rows_b, texts.b))
    ]
    if texts.is_paired:
        width = rows_a.shape[1]

        def measure(totals: FloatArray) -> FloatArray:
            found: FloatArray = of_b(totals[..., width:]) - of_a(totals[..., :width])
            return found

        together = np.concatenate([rows_a, rows_b], axis=1)
        return _Found(values[0], values[1], jackknife(measure, together, texts.a.codes, num_classes))
    one = jackknife(of_a, rows_a, texts.a.codes, num_classes)
    two = jackknife(of_b, rows_b, texts.b.codes, num_classes)
    difference = Jackknife(
        value=two.value - one.value,
        corrected=two.corrected - one.corrected,
        error=np.hypot(one.error, two.error),
        degrees=min(one.degrees, two.degrees),
    )
    return _Found(values[0], values[1], difference)


def _differences(
    measure: DifferenceMeasure, unit: str, found: _Found, where: Sequence[Mapping[str, Any]]
) -> Iterator[UseDifference]:
    low, high = found.difference.interval()
    p_values = found.difference.p_values()
    for at, place in enumerate(where):
        yield UseDifference.model_validate(
            {
                "measure": measure,
                "unit": unit,
                **place,
                "value_a": number_or_none(found.a[at]),
                "value_b": number_or_none(found.b[at]),
                "difference": number_or_none(found.difference.value[at]),
                "low": number_or_none(low[at]),
                "high": number_or_none(high[at]),
                "p_value": number_or_none(p_values[at]),
            }
        )
