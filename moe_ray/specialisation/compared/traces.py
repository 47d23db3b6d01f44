"""Compare traces of runs, checkpoints or seeds: match their experts, then compare how classes use them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.comparison.statistics import benjamini_hochberg
from moe_ray.errors import UserError
from moe_ray.formatting import listed, plural
from moe_ray.specialisation import information as info
from moe_ray.specialisation.compared.differences import ComparedPair, ComparedTexts, class_profile, differences_of
from moe_ray.specialisation.compared.matching import MatchedExperts, match_experts
from moe_ray.specialisation.compared.records import (
    ComparisonReport,
    ExpertMatch,
    LayerMatch,
    TraceComparison,
    UseDifference,
)
from moe_ray.specialisation.measures import MIN_TEXTS, classes_of
from moe_ray.specialisation.records import LayerTrace, Trace

MIN_CLASSES = 3
# With fewer texts in common, differences of all texts say more than those of the common ones.
MIN_SHARED = 0.5
LAYERS_REMEDY = "name the layers to compare, as --layers 0:0,7:15"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTrace:
    """A trace and what the report calls it."""

    name: str
    trace: Trace


def compare_traces(traces: Sequence[NamedTrace], *, layers: Sequence[tuple[int, int]] = ()) -> ComparisonReport:
    """Compare each trace with the first. `layers` pairs the numbers of their layers; by default they follow in order.

    Raises `UserError` for fewer than two traces, for layers that cannot be paired, and where nothing can be matched.
    """
    if len(traces) < 2:
        raise UserError("one trace", remedy="give two or more traces: the others are compared with the first")
    first, *others = traces
    return ComparisonReport(comparisons=[_comparison(first, other, layers) for other in others])


def _comparison(a: NamedTrace, b: NamedTrace, layers: Sequence[tuple[int, int]]) -> TraceComparison:
    if a.trace.manifest.unit != b.trace.manifest.unit:
        raise UserError(
            f"decides for each {b.trace.manifest.unit}, and {a.name} for each {a.trace.manifest.unit}",
            where=b.name,
            remedy="compare traces of routers of one kind",
        )
    paired = list(_paired_layers(a, b, layers))
    texts = _texts_of(a.trace, b.trace)
    by_texts = len(texts.a.shared) >= MIN_TEXTS
    if not by_texts and len(texts.names) < MIN_CLASSES:
        raise UserError(
            f"shares {plural(len(texts.a.shared), 'text')} and {len(texts.names)} classes of {MIN_TEXTS} texts "
            f"with {a.name}: experts cannot be matched",
            where=b.name,
            remedy=f"trace the same texts, or texts of at least {MIN_CLASSES} common classes",
        )
    matches = [_match(one, two, texts, by_texts=by_texts) for one, two in paired]
    layer_matches = [_layer_match(one, two, match) for (one, two), match in zip(paired, matches, strict=True)]
    experts = [
        pair for (one, two), match in zip(paired, matches, strict=True) for pair in _expert_matches(one, two, match)
    ]
    _adjust(layer_matches)
    _adjust(experts)
    differences = [found for one, two in paired for found in differences_of(one, two, texts, experts)]
    return TraceComparison(
        a=a.name,
        b=b.name,
        model_a=a.trace.manifest.model,
        model_b=b.trace.manifest.model,
        matched_by="texts" if by_texts else "classes",
        is_paired=texts.is_paired,
        num_shared=len(texts.a.shared),
        classes={
            name: (int((texts.a.codes == code).sum()), int((texts.b.codes == code).sum()))
            for code, name in enumerate(texts.names if len(texts.names) > 1 else ())
        },
        layers=layer_matches,
        experts=experts,
        families=_adjust_differences(differences),
        differences=differences,
        notes=list(_notes(a, b, texts)),
    )


def _paired_layers(
    a: NamedTrace, b: NamedTrace, layers: Sequence[tuple[int, int]]
) -> Iterator[tuple[LayerTrace, LayerTrace]]:
    if not layers:
        if len(a.trace.layers) != len(b.trace.layers):
            numbers = f"{len(b.trace.layers)} layers with experts, and {a.name} has {len(a.trace.layers)}"
            raise UserError(f"has {numbers}", where=b.name, remedy=LAYERS_REMEDY)
        yield from zip(a.trace.layers, b.trace.layers, strict=True)
        return
    for pair in layers:
        yield _layer(a, pair[0]), _layer(b, pair[1])


def _layer(named: NamedTrace, number: int) -> LayerTrace:
    found = next((layer for layer in named.trace.layers if layer.record.layer == number), None)
    if found is None:
        known = ", ".join(str(layer.record.layer) for layer in named.trace.layers)
        raise UserError(f"has no layer {number} with experts", where=named.name, remedy=f"choose among {known}")
    return found


def _texts_of(a: Trace, b: Trace) -> ComparedPair:
    """Find the texts of both traces by their ids, and the classes of at least `MIN_TEXTS` texts in both.

    A text that has another class in B is not shared.
    """
    where = {text_id: place for place, text_id in enumerate(b.text_ids)}
    both = [(place, where[text_id]) for place, text_id in enumerate(a.text_ids) if text_id in where]
    same = [(one, two) for one, two in both if a.labels[one] == b.labels[two]]
    is_paired = len(same) >= max(MIN_TEXTS, MIN_SHARED * min(len(a.text_ids), len(b.text_ids)))
    shared_a = np.array([one for one, _ in same], dtype=np.intp)
    shared_b = np.array([two for _, two in same], dtype=np.intp)
    places = [shared_a, shared_b] if is_paired else [np.arange(len(one.text_ids)) for one in (a, b)]
    labels = [[one.labels[at] for at in own] for one, own in zip((a, b), places, strict=True)]
    in_b = classes_of(labels[1]).names
    names = tuple(name for name in classes_of(labels[0]).names if name in in_b)
    return ComparedPair(
        a=_used(shared_a, places[0], labels[0], names),
        b=_used(shared_b, places[1], labels[1], names),
        names=names,
        is_paired=is_paired,
        num_relabelled=len(both) - len(same),
    )


def _used(shared: IntArray, places: IntArray, labels: Sequence[str], names: Sequence[str]) -> ComparedTexts:
    """Keep the texts of the compared classes; all of them where fewer than two classes are compared."""
    if len(names) < 2:
        return ComparedTexts(shared=shared, used=places, codes=np.zeros(len(places), dtype=np.intp))
    numbers = {name: number for number, name in enumerate(names)}
    kept = [at for at, label in enumerate(labels) if label in numbers]
    codes = np.array([numbers[labels[at]] for at in kept], dtype=np.intp)
    return ComparedTexts(shared=shared, used=places[kept], codes=codes)


def _match(a: LayerTrace, b: LayerTrace, texts: ComparedPair, *, by_texts: bool) -> MatchedExperts:
    purpose = f"match of layers {a.record.layer} and {b.record.layer}"
    if by_texts:
        return match_experts(_shares(a, texts.a.shared), _shares(b, texts.b.shared), purpose=purpose)
    num = len(texts.names)
    return match_experts(class_profile(a, texts.a, num), class_profile(b, texts.b, num), purpose=purpose)


def _shares(layer: LayerTrace, places: IntArray) -> FloatArray:
    """Return each expert's share of the selections of each text [E, n], square roots, which steadies its variance."""
    found: FloatArray = np.sqrt(info.shares(layer.selected[places])).T
    return found


def _layer_match(a: LayerTrace, b: LayerTrace, match: MatchedExperts) -> LayerMatch:
    means = np.nanmean(match.null, axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return LayerMatch(
        layer_a=a.record.layer,
        layer_b=b.record.layer,
        num_experts_a=a.record.num_experts,
        num_experts_b=b.record.num_experts,
        similarity=float(match.similarity.mean()),
        null_mean=float(means.mean()),
        null_low=float(low),
        null_high=float(high),
        p_value=match.p_value,
        unmatched_a=sorted(set(range(a.record.num_experts)) - set(match.a.tolist())),
        unmatched_b=sorted(set(range(b.record.num_experts)) - set(match.b.tolist())),
    )


def _expert_matches(a: LayerTrace, b: LayerTrace, match: MatchedExperts) -> Iterator[ExpertMatch]:
    for at, (one, two) in enumerate(zip(match.a.tolist(), match.b.tolist(), strict=True)):
        null = match.null[:, at]
        yield ExpertMatch(
            layer_a=a.record.layer,
            layer_b=b.record.layer,
            expert_a=one,
            expert_b=two,
            similarity=float(match.similarity[at]),
            null_mean=float(np.nanmean(null)),
            null_high=float(np.nanquantile(null, 0.975)),
            p_value=float(match.p_values[at]),
        )


def _adjust(found: Sequence[LayerMatch] | Sequence[ExpertMatch] | Sequence[UseDifference]) -> int:
    tested = [one for one in found if one.p_value is not None]
    for one, q_value in zip(tested, benjamini_hochberg([one.p_value for one in tested]), strict=True):
        one.q_value = q_value
    return len(tested)


def _adjust_differences(differences: Sequence[UseDifference]) -> dict[str, int]:
    """Adjust each measure's p-values together; returns how many there are."""
    sizes = {}
    for measure in dict.fromkeys(one.measure for one in differences):
        num = _adjust([one for one in differences if one.measure == measure])
        if num:
            sizes[f"differences of {measure.replace('_', ' ')}"] = num
    return sizes


def _notes(a: NamedTrace, b: NamedTrace, texts: ComparedPair) -> Iterator[str]:
    num_shared = len(texts.a.shared)
    if a.trace.manifest.model_fingerprint == b.trace.manifest.model_fingerprint:
        yield "both traces are of the same weights"
    if texts.num_relabelled:
        yield f"not shared, because their class differs: {plural(texts.num_relabelled, 'text')}"
    if texts.is_paired and num_shared < max(len(a.trace.text_ids), len(b.trace.text_ids)):
        yield f"compared on the {plural(num_shared, 'text')} of both traces"
    if not texts.is_paired:
        yield f"not paired, because they share {plural(num_shared, 'text')}: intervals are wider"
    for one, other in ((a, b), (b, a)):
        names = sorted(set(filter(None, one.trace.labels)) - set(texts.names))
        if names:
            yield f"classes of {one.name} that are not compared with {other.name}: {listed(names)}"
