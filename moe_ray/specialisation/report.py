"""The report of a trace: all measures, tests over named families, and one sentence per expert. Needs no torch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import Field

from moe_ray.comparison.statistics import benjamini_hochberg
from moe_ray.files import StoredRecord
from moe_ray.formatting import listed, number, plural, times
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.measures import (
    MIN_TEXTS,
    Classes,
    MeasuredValue,
    Weight,
    classes_of,
    measure_layer,
)
from moe_ray.specialisation.records import Trace
from moe_ray.specialisation.sequences import measure_sequences
from moe_ray.specialisation.similar_experts import similar_experts

ALPHA = 0.05
# Measures whose p-values are adjusted together, each over all layers.
FAMILIES = {
    "generalised_js": "divergence of the classes, over layers",
    "pairwise_js": "divergence of two classes, over layers and pairs",
    "lift": "lift, over layers, classes and experts",
    "class_information": "information on the class, over layers and experts",
    "cross_layer_information": "information on the next layer, over layers",
    "conditional_information": "information on the class given the token, over layers",
}


class ExpertSentence(StoredRecord):
    """What the trace shows of one expert, in words. `q_value` is that of its strongest lift."""

    layer: int
    expert: int
    text: str
    label: str | None = None
    lift: float | None = None
    q_value: float | None = None


class SpecialisationReport(StoredRecord):
    """All that is measured in a trace. Without two classes of at least `MIN_TEXTS` texts there are no comparisons."""

    format: Literal[1] = 1
    model: str
    model_type: str
    unit: Literal["token", "text"]
    weight: Weight
    layers: list[TracedLayer]
    num_texts: int
    num_tokens: int
    num_masked: int
    classes: dict[str, int]
    too_small: dict[str, int]
    notes: list[str] = Field(default_factory=list)
    families: dict[str, int] = Field(default_factory=dict)
    values: list[MeasuredValue]
    sentences: list[ExpertSentence]
    expert_names: list[str] = Field(default_factory=list)

    def expert_name(self, expert: int) -> str:
        """Return the expert's name, or its number."""
        return self.expert_names[expert] if expert < len(self.expert_names) else str(expert)


def make_report(trace: Trace, *, weight: Weight = "token") -> SpecialisationReport:
    """Measure a trace. The same trace gives the same report, in whatever order its texts were traced."""
    classes = classes_of(trace.labels)
    values = [value for layer in trace.layers for value in measure_layer(trace, layer, classes, weight)]
    values += measure_sequences(trace, classes)
    values += similar_experts(trace)
    families = adjust(values)
    manifest = trace.manifest
    return SpecialisationReport(
        model=manifest.model,
        model_type=manifest.model_type,
        unit=manifest.unit,
        weight=weight,
        layers=manifest.layers,
        num_texts=len(trace.text_ids),
        num_tokens=int(trace.num_tokens.sum()),
        num_masked=int(trace.num_masked.sum()),
        classes={name: int((classes.codes_n == code).sum()) for code, name in enumerate(classes.names)},
        too_small=classes.too_small,
        notes=[*manifest.notes, *_notes(trace, classes)],
        families=families,
        values=values,
        sentences=list(_sentences(trace, values, classes)),
        expert_names=manifest.expert_names,
    )


def _notes(trace: Trace, classes: Classes) -> Iterator[str]:
    if classes.too_small:
        named = listed([f"{name} ({size})" for name, size in classes.too_small.items()])
        yield f"not compared, because they have fewer than {MIN_TEXTS} texts: {named}"
    if len(classes.names) < 2:
        yield f"no classes are compared: at least two of {MIN_TEXTS} texts are needed"
    if not trace.tokens:
        yield "no measures of pairs of experts, layers and tokens: trace with --tokens"


def adjust(values: Sequence[MeasuredValue]) -> dict[str, int]:
    """Fill in the q-values of each family's measures; returns the number of tests of each family."""
    sizes = {}
    for measure, family in FAMILIES.items():
        tested = [value for value in values if value.measure == measure and value.p_value is not None]
        for value, q_value in zip(tested, benjamini_hochberg([one.p_value for one in tested]), strict=True):
            value.q_value, value.family = q_value, family
        if tested:
            sizes[family] = len(tested)
    return sizes


def _sentences(trace: Trace, values: Iterable[MeasuredValue], classes: Classes) -> Iterator[ExpertSentence]:
    """Yield a sentence per expert, the surest first."""
    if len(classes.names) < 2:
        return
    by_expert: dict[tuple[int, int], list[MeasuredValue]] = {}
    for value in values:
        if value.measure == "lift" and value.expert is not None:
            by_expert.setdefault((value.layer, value.expert), []).append(value)
    found = [_sentence(trace, lifts) for lifts in by_expert.values()]
    yield from sorted(found, key=lambda one: (one.q_value if one.q_value is not None else 2.0, -abs(one.lift or 0)))


def _sentence(trace: Trace, lifts: Sequence[MeasuredValue]) -> ExpertSentence:
    first = lifts[0]
    assert first.expert is not None
    name = f"expert {trace.manifest.expert_name(first.expert)}, layer {first.layer}"
    used = sum(layer.selected[:, first.expert].sum() for layer in trace.layers if layer.record.layer == first.layer)
    if not used:
        return ExpertSentence(layer=first.layer, expert=first.expert, text=f"{name}: never selected")
    best = min(lifts, key=lambda one: (one.q_value if one.q_value is not None else 2.0, -abs(one.value or 0.0)))
    if best.q_value is None or best.q_value >= ALPHA or best.value is None:
        width = smallest_visible(lifts)
        text = f"{name}: no class uses it more or less than the others that the data can show"
        text += f"; a lift below {times(width)} would not be seen" if width else ""
        return ExpertSentence(layer=first.layer, expert=first.expert, text=text, q_value=best.q_value)
    more = "more" if best.value > 0 else "less"
    text = f"{name}: class {best.label} uses it {_factor(best.value)} as often as the classes together"
    text += f" [{_factor(best.low)}, {_factor(best.high)}], {more} than chance (null {_factor(best.null_low)} to"
    text += f" {_factor(best.null_high)}), q {_q(best.q_value)}"
    return ExpertSentence(
        layer=first.layer, expert=first.expert, text=text, label=best.label, lift=2**best.value, q_value=best.q_value
    )


def _factor(log2_lift: float | None) -> str:
    return times(None if log2_lift is None else 2**log2_lift)


def _q(q_value: float) -> str:
    return "< 0.001" if q_value < 0.001 else f"= {number(q_value)}"


# Normal quantiles of 97.5 % and of 80 % power.
VISIBLE_ERRORS = 1.96 + 0.84


def smallest_visible(lifts: Sequence[MeasuredValue]) -> float | None:
    """Return the lift that a single test of the median class would show with a probability of 80 %."""
    halves = sorted((one.high - one.low) / 2 for one in lifts if one.high is not None and one.low is not None)
    if not halves:
        return None
    return float(2 ** (halves[len(halves) // 2] / 1.96 * VISIBLE_ERRORS))


def sentence_of_all(report: SpecialisationReport) -> str:
    """Return how many experts some class uses differently, in words."""
    found = [one for one in report.sentences if one.label is not None]
    num_experts = sum(layer.num_experts for layer in report.layers)
    tests = report.families.get(FAMILIES["lift"], 0)
    return (
        f"{len(found)} of {plural(num_experts, 'expert')} are used by some class more or less than by the others "
        f"(q < {ALPHA}, {plural(tests, 'test')}). Use is not need: no trace says what removing an expert would cost."
    )
