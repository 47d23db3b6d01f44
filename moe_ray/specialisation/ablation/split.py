"""Texts for choosing apart from texts for testing, and what is chosen. Needs no torch.

An expert that is chosen because it looks strong on some texts looks too strong on them. So what is chosen on one half
of the texts is tested on the other half. The halves follow from a hash of the texts' ids, so that they are the same in
every run, on every machine and for every model.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from moe_ray.arrays import BoolArray, FloatArray
from moe_ray.errors import DataError
from moe_ray.fingerprint import fingerprint
from moe_ray.specialisation.ablation.records import Ablation, SplitRecord


def is_for_choosing(text_id: str) -> bool:
    """Return whether a text is one to choose on; else it is one to test on."""
    return int(fingerprint({"half": text_id}), 16) % 2 == 0


def choosing_texts(ablation: Ablation) -> BoolArray:
    """Return which texts of an ablation are for choosing. Raises `DataError` where one half is empty."""
    found: BoolArray = np.array([is_for_choosing(text_id) for text_id in ablation.text_ids], dtype=np.bool_)
    if not found.any() or found.all():
        raise DataError(
            f"{int(found.sum())} texts for choosing and {int((~found).sum())} for testing",
            remedy="give more texts; a hash of their ids splits them",
        )
    return found


def strengths(ablation: Ablation, texts: BoolArray) -> FloatArray:
    """Return for each unit the largest loss that it means for a class, beyond its control draws, over these texts."""
    specific = (ablation.removed - ablation.controls.mean(axis=2))[texts]
    labels = np.array(ablation.labels)[texts]
    finite = np.isfinite(specific).all(axis=1)
    means = [specific[finite & (labels == label)] for label in sorted(set(labels))]
    losses = [-part.mean(axis=0) for part in means if len(part)]
    if not losses:
        raise DataError("no text for choosing has a score", remedy="give more texts")
    found: FloatArray = np.max(losses, axis=0)
    return found


def strongest(ablation: Ablation, num: int) -> list[int]:
    """Return the places of the `num` strongest units on the texts for choosing, the strongest first."""
    found = strengths(ablation, choosing_texts(ablation))
    return [int(at) for at in np.argsort(-found, kind="stable")[:num]]


def part_for_testing(ablation: Ablation, units: Sequence[int]) -> tuple[Ablation, SplitRecord]:
    """Return the ablation of these units on the texts for testing alone."""
    choosing = choosing_texts(ablation)
    kept, chosen = np.flatnonzero(~choosing), list(units)
    part = replace(
        ablation,
        plan=ablation.plan.model_copy(update={"units": [ablation.plan.units[at] for at in chosen]}),
        text_ids=tuple(ablation.text_ids[at] for at in kept),
        labels=tuple(ablation.labels[at] for at in kept),
        intact=ablation.intact[kept],
        right=None if ablation.right is None else ablation.right[kept],
        selected=ablation.selected[kept][:, chosen],
        num_removed=ablation.num_removed[kept][:, chosen],
        num_matched=ablation.num_matched[kept][:, chosen],
        removed=ablation.removed[kept][:, chosen],
        controls=ablation.controls[kept][:, chosen],
    )
    record = SplitRecord(
        num_choosing=int(choosing.sum()),
        num_testing=len(kept),
        num_chosen=len(chosen),
        num_units=len(ablation.plan.units),
    )
    return part, record


def joint_sets(ablation: Ablation, num: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return sets of experts to remove together, with their layer (-1: all layers).

    They are all pairs of the `num` strongest experts of each layer, on the texts for choosing, and all `num` of them
    at once.
    """
    found = strengths(ablation, choosing_texts(ablation))
    sets: list[tuple[int, tuple[int, ...]]] = []
    layers = list(dict.fromkeys(unit.layer for unit in ablation.plan.units))
    for layer in layers:
        own = [at for at, unit in enumerate(ablation.plan.units) if unit.layer == layer]
        best = sorted(own, key=lambda at: -found[at])[:num]
        experts = sorted(ablation.plan.units[at].expert for at in best)
        sets += [(layer, pair) for pair in combinations(experts, 2)]
        if len(experts) > 2:
            sets.append((layer, tuple(experts)))
    return sets
