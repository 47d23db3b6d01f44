"""What removing experts together costs beyond the sum of what each costs alone: redundancy shows in it.

Two experts that can stand in for each other cost little alone and much together. Needs no torch.
"""

import math

import numpy as np

from moe_ray.arrays import FloatArray
from moe_ray.comparison.statistics import benjamini_hochberg
from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord
from moe_ray.specialisation.ablation.records import Ablation
from moe_ray.specialisation.causal import mean_of, min_texts


class InteractionRecord(StoredRecord):
    """Mean over a class's texts of the change of the joint removal, less the changes of its single ones.

    Negative: together they cost more than each alone. `low` and `high` are its 95 % interval over texts. `q_value` is
    adjusted over all sets and classes; None for a class with too few texts.
    """

    layer: int
    experts: list[int]
    label: str
    num_texts: int
    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    q_value: float | None


def interactions(joint: Ablation, singles: Ablation) -> list[InteractionRecord]:
    """Return the interaction of each set on each class. Raises `RunDirectoryError` where single removals miss."""
    beyond = _beyond(joint, singles)
    labels, names = np.array(joint.labels), sorted(set(joint.labels))
    needed = min_texts(len(joint.plan.units) * len(names))
    cells = [(at, label) for at in range(len(joint.plan.units)) for label in names]
    means = []
    for at, label in cells:
        values = beyond[labels == label, at]
        means.append(mean_of(values[np.isfinite(values)]))
    p_values = [_tested(mean.p_value(), mean.degrees + 1 >= needed) for mean in means]
    q_values = benjamini_hochberg(p_values)
    found = []
    for (at, label), mean, p_value, q_value in zip(cells, means, p_values, q_values, strict=True):
        unit, (low, high) = joint.plan.units[at], mean.interval()
        found.append(
            InteractionRecord(
                layer=unit.layer,
                experts=list(unit.experts),
                label=label or "all texts",
                num_texts=int((labels == label).sum()),
                value=_finite(mean.value),
                low=_finite(low),
                high=_finite(high),
                p_value=p_value,
                q_value=q_value,
            )
        )
    return found


def _tested(p_value: float, has_enough: bool) -> float | None:
    return p_value if has_enough and not math.isnan(p_value) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _beyond(joint: Ablation, singles: Ablation) -> FloatArray:
    """Return for each text and set its change, less the sum of the changes of the set's experts alone."""
    rows = {text_id: at for at, text_id in enumerate(singles.text_ids)}
    places = {(unit.layer, unit.expert): at for at, unit in enumerate(singles.plan.units) if not unit.with_experts}
    try:
        own = [rows[text_id] for text_id in joint.text_ids]
        alone = [[places[unit.layer, expert] for expert in unit.experts] for unit in joint.plan.units]
    except KeyError as error:
        raise RunDirectoryError(
            "joint removals of other texts or experts than the single ones", remedy="run ablate again in a new folder"
        ) from error
    sums = [singles.removed[own][:, which].sum(axis=1) for which in alone]
    beyond: FloatArray = joint.removed - np.stack(sums, axis=1)
    return beyond
