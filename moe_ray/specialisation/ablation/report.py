"""The report of an ablation: effects of removing each expert on each class, tested, in tables and sentences.

Needs no torch.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.errors import DataError
from moe_ray.files import StoredRecord
from moe_ray.formatting import interval, listed, number, percent, plural, significant
from moe_ray.specialisation.ablation.interaction import InteractionRecord, interactions
from moe_ray.specialisation.ablation.records import AblatedUnit, Ablation, SplitRecord
from moe_ray.specialisation.ablation.split import part_for_testing, strongest
from moe_ray.specialisation.causal import (
    ALPHA,
    EffectKind,
    ExpertEffect,
    PairedChanges,
    causal_effects,
    rank_agreement,
)

ALL_TEXTS = "all texts"
UNITS = {"log_p": "nats", "bits_per_byte": "bits per byte"}
FAMILY = "specific and selective effects over layers, experts and classes"
# With fewer of the selections found for its draws, the control of an expert removes clearly less than its removal.
MIN_MATCHED = 0.9
DIGITS = 3


class EffectRecord(StoredRecord):
    """One effect of one unit on one class, in the unit of the report; see `causal.ExpertEffect`. None: not defined."""

    kind: EffectKind
    layer: int
    expert: int
    with_experts: list[int] = Field(default_factory=list)
    label: str
    num_texts: int
    value: float | None
    low: float | None
    high: float | None
    d_z: float | None
    p_value: float | None
    q_value: float | None
    equivalence_p: float | None
    detectable: float | None
    no_headroom: bool


class UnitRecord(StoredRecord):
    """What was removed: `selected` are selections of the texts' own tokens, `num_removed` of all tokens.

    `matched` is the share of removed selections that the control draws found in other experts, 1 where none is removed.
    """

    layer: int
    expert: int
    with_experts: list[int] = Field(default_factory=list)
    selected: int
    num_removed: int
    matched: float
    num_texts_touched: int
    sentence: str
    q_value: float | None


class AgreementRecord(StoredRecord):
    """Spearman's correlation over units of how often they are selected and what their removal costs, over texts."""

    effect: Literal["total", "specific"]
    correlation: float | None
    low: float | None
    high: float | None


class AblationReport(StoredRecord):
    """All effects of an ablation. Negative effects are losses. `intact` is the mean score of each class.

    With `split`, the units were chosen, or means of answers taken, on other texts than these. `interactions` are of
    joint removals.
    """

    format: Literal[1] = 1
    model: str
    model_type: str
    operation: str
    score: str
    unit: str
    num_texts: int
    num_draws: int
    family: str
    classes: dict[str, int]
    intact: dict[str, float]
    accuracy: dict[str, float] = Field(default_factory=dict)
    no_headroom: list[str] = Field(default_factory=list)
    agreement: list[AgreementRecord]
    units: list[UnitRecord]
    effects: list[EffectRecord]
    notes: list[str] = Field(default_factory=list)
    split: SplitRecord | None = None
    interactions: list[InteractionRecord] = Field(default_factory=list)
    expert_names: list[str] = Field(default_factory=list)
    margin: float | None = None

    def expert_name(self, expert: int) -> str:
        """Return the expert's name, or its number."""
        return self.expert_names[expert] if expert < len(self.expert_names) else str(expert)


def make_ablation_report(
    ablation: Ablation, *, margin: float | None = None, choose: int | None = None, singles: Ablation | None = None
) -> AblationReport:
    """Test the effects of an ablation. `margin` asks for equivalence tests. Raises `DataError` without texts.

    With `choose`, the strongest units on the texts for choosing are tested on the others; the operation mean, whose
    means come from the texts for choosing, is always tested on the others. `singles` are the single removals that the
    joint ones of `ablation` are compared with.
    """
    ablation, split = _tested_texts(ablation, choose)
    kept = _finite(ablation)
    if not kept.any():
        raise DataError("no text was scored", remedy="give longer texts, or raise --max-tokens")
    plan, names = ablation.plan, sorted({ablation.labels[at] for at in np.flatnonzero(kept)})
    labels = np.array([names.index(ablation.labels[at]) for at in np.flatnonzero(kept)], dtype=np.intp)
    changes = PairedChanges(
        removed=ablation.removed[kept],
        controls=ablation.controls[kept],
        labels=labels,
        num_classes=len(names),
        right=None if ablation.right is None else ablation.right[kept],
        chance=1 / plan.num_choices if plan.num_choices else None,
    )
    shown = [name or ALL_TEXTS for name in names]
    effects = causal_effects(changes, family=FAMILY, margin=margin)
    units = list(_units(ablation, kept, effects, shown))
    flat = sorted({one.label for one in effects if one.no_headroom})
    return AblationReport(
        model=plan.model,
        model_type=plan.model_type,
        operation=plan.operation,
        score=plan.score,
        unit=UNITS[plan.score],
        num_texts=int(kept.sum()),
        num_draws=plan.num_draws,
        family=effects[0].family,
        classes={name: int((labels == code).sum()) for code, name in enumerate(shown)},
        intact=_means(shown, labels, ablation.intact[kept]),
        accuracy={} if changes.right is None else _means(shown, labels, changes.right.astype(np.float64)),
        no_headroom=[shown[label] for label in flat],
        agreement=_agreement(ablation.selected[kept].sum(axis=0), changes),
        units=units,
        effects=[_effect(one, plan.units[one.expert], shown[one.label]) for one in effects],
        notes=list(_notes(ablation, kept, shown, effects, units)),
        split=split,
        interactions=[] if singles is None else interactions(ablation, singles),
        expert_names=plan.expert_names,
        margin=margin,
    )


def _tested_texts(ablation: Ablation, choose: int | None) -> tuple[Ablation, SplitRecord | None]:
    if choose is not None:
        return part_for_testing(ablation, strongest(ablation, choose))
    if ablation.plan.operation == "mean" and ablation.plan.chosen is None:
        return part_for_testing(ablation, range(len(ablation.plan.units)))
    return ablation, ablation.plan.chosen


def _finite(ablation: Ablation) -> BoolArray:
    found: BoolArray = (
        np.isfinite(ablation.intact)
        & np.isfinite(ablation.removed).all(axis=1)
        & np.isfinite(ablation.controls).all(axis=(1, 2))
    )
    return found


def _means(names: Sequence[str], labels: IntArray, values: FloatArray) -> dict[str, float]:
    return {name: float(values[labels == code].mean()) for code, name in enumerate(names)}


def _agreement(selected: FloatArray, changes: PairedChanges) -> list[AgreementRecord]:
    specific = changes.removed - changes.controls.mean(axis=2)
    found: list[tuple[Literal["total", "specific"], FloatArray]] = [("total", changes.removed), ("specific", specific)]
    return [
        AgreementRecord(effect=name, **{key: _finite_or_none(value) for key, value in one._asdict().items()})
        for name, values in found
        for one in [rank_agreement(selected, values)]
    ]


def _finite_or_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _effect(effect: ExpertEffect, unit: AblatedUnit, label: str) -> EffectRecord:
    names = ("value", "low", "high", "d_z", "p_value", "q_value", "equivalence_p", "detectable")
    return EffectRecord(
        kind=effect.kind,
        layer=unit.layer,
        expert=unit.expert,
        with_experts=unit.with_experts,
        label=label,
        num_texts=effect.num_texts,
        no_headroom=effect.no_headroom,
        **{name: _finite_or_none(getattr(effect, name)) for name in names},
    )


def _units(
    ablation: Ablation, kept: BoolArray, effects: Sequence[ExpertEffect], labels: Sequence[str]
) -> Iterator[UnitRecord]:
    by_unit: dict[int, list[ExpertEffect]] = {}
    for effect in effects:
        by_unit.setdefault(effect.expert, []).append(effect)
    for at, unit in enumerate(ablation.plan.units):
        num_removed, matched = ablation.num_removed[kept, at], ablation.num_matched[kept, at].sum()
        own = by_unit.get(at, [])
        best = min((one.q_value for one in own if one.kind == "specific" and one.q_value is not None), default=None)
        name = ablation.plan.unit_name(unit)
        yield UnitRecord(
            layer=unit.layer,
            expert=unit.expert,
            with_experts=unit.with_experts,
            selected=int(ablation.selected[kept, at].sum()),
            num_removed=int(num_removed.sum()),
            matched=float(matched / num_removed.sum()) if num_removed.any() else 1.0,
            num_texts_touched=int((num_removed > 0).sum()),
            sentence=f"{name}: {_sentence(own, labels, ablation.plan.score, unit, int(num_removed.sum()))}",
            q_value=best,
        )


def _sentence(
    own: Sequence[ExpertEffect], labels: Sequence[str], score: str, removed: AblatedUnit, num_removed: int
) -> str:
    """Return what removing a unit costs, in words: the class with the surest specific effect, and the others."""
    unit, them = UNITS[score], "them" if removed.with_experts else "it"
    if not num_removed:
        return f"no token selects {them}: removing {them} changes nothing"
    totals = {one.label: one for one in own if one.kind == "total"}
    tested = [one for one in own if one.kind == "specific" and one.q_value is not None]
    if not tested:
        return "not tested: every class has too few texts"
    best = min(tested, key=lambda one: (one.q_value if one.q_value is not None else 2.0, -abs(one.value)))
    if best.q_value is None or best.q_value >= ALPHA:
        least = max(one.detectable for one in tested)
        return f"no effect that the data can show (smallest detectable in each class {significant(least)} {unit})"
    total = totals[best.label]
    # Of a loss the numbers are positive, as costs.
    verb, sign = ("gains", 1) if total.low > 0 else ("costs", -1)
    low, high = sorted((sign * total.low, sign * total.high))
    text = f"removing {them} {verb} {labels[best.label]} {number(sign * total.value, DIGITS)} {unit}"
    text += f" {interval(low, high, DIGITS)}"
    others = [sign * one.value for label, one in totals.items() if label != best.label]
    if others:
        text += f", others {number(float(np.mean(others)), DIGITS)}"
    than = "worse" if best.value < 0 else "better"
    text += f"; {number(abs(best.value), DIGITS)} {than} than removing as much from other experts"
    text += f", specific q {_q(best.q_value)}"
    selective = next((one for one in own if one.kind == "selective" and one.label == best.label), None)
    if selective is not None and selective.q_value is not None:
        text += f", selective q {_q(selective.q_value)}"
    return text


def _q(q_value: float) -> str:
    return "< 0.001" if q_value < 0.001 else f"= {number(q_value, DIGITS)}"


def _notes(
    ablation: Ablation,
    kept: BoolArray,
    labels: Sequence[str],
    effects: Sequence[ExpertEffect],
    units: Sequence[UnitRecord],
) -> Iterator[str]:
    yield from (*ablation.plan.notes, *ablation.notes)
    if not kept.all():
        yield f"left out, because a score is not finite: {plural(int((~kept).sum()), 'text')}"
    untested = sorted({labels[one.label] for one in effects if one.kind != "total" and one.p_value is None})
    if untested:
        yield f"not tested, because they have too few texts for so many tests: {listed(untested)}"
    flat = sorted({labels[one.label] for one in effects if one.no_headroom})
    if flat:
        yield f"no headroom: the intact model is at chance on {listed(flat)}, so that its accuracy cannot fall"
    weak = [one for one in units if one.matched < MIN_MATCHED]
    if weak:
        named = listed(
            [
                f"{ablation.plan.unit_name(unit)} ({percent(one.matched)})"
                for one in weak[:5]
                for unit in [AblatedUnit(layer=one.layer, expert=one.expert, with_experts=one.with_experts)]
            ]
        )
        more = f" and {len(weak) - 5} more" if len(weak) > 5 else ""
        yield (
            f"so busy that other experts have too few selections for a whole control: {named}{more}; "
            "their specific effects hold a part of the total one"
        )
