"""What readers share: a unit of imported tokens or counts, and the manifest of an imported trace.

Shapes: T tokens, L layers, K selected experts, E experts.
"""

# ruff: noqa: N803 - capital suffixes name the axes of an array

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

import moe_ray
from moe_ray.arrays import FloatArray
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.records import SUMS, UNKNOWN_TOKEN, TokenTrace, TraceManifest
from moe_ray.specialisation.writing import LayerSums, TextTrace

Selected = np.ndarray[Any, np.dtype[np.int16]]


class UnitName(NamedTuple):
    """A unit's id and class; "" is none."""

    text_id: str
    label: str = ""


def imported_manifest(
    source: str, model_type: str, layers: Sequence[TracedLayer], *, with_tokens: bool, notes: Iterable[str]
) -> TraceManifest:
    """Return the manifest of an imported trace, without its sizes. Readers know no fingerprint of the model."""
    return TraceManifest(
        moe_ray_version=moe_ray.__version__,
        model=source,
        model_type=model_type,
        model_fingerprint="unknown",
        unit="token",
        layers=list(layers),
        settings={"with_tokens": with_tokens},
        num_texts=0,
        num_tokens=0,
        num_masked=0,
        notes=list(notes),
    )


def imported_layer(layer: int, module: str, *, num_experts: int, top_k: int) -> TracedLayer:
    """Return the record of a layer of which a dump has the selected experts, and no scores."""
    return TracedLayer(layer=layer, module=module, num_experts=num_experts, top_k=top_k, scores="unknown")


def unit_of_tokens(
    name: UnitName,
    selected: Sequence[Selected],
    layers: Sequence[TracedLayer],
    token_ids: Sequence[int] | None = None,
) -> TextTrace:
    """Return the trace of T tokens: `selected` [T, K] by layer, -1 for none. Without `token_ids` they are unknown.

    Tokens without an expert in any layer are padding, or were not recorded: they are masked.
    """
    width = max(layer.top_k for layer in layers)
    experts = np.full((len(selected[0]), len(layers), width), -1, dtype=np.int16)
    for at, rows in enumerate(selected):
        experts[:, at, : rows.shape[1]] = rows
    counted = (experts >= 0).any(axis=(1, 2))
    ids = np.full(len(experts), UNKNOWN_TOKEN, dtype=np.int32) if token_ids is None else np.array(token_ids, np.int32)
    experts, ids = experts[counted], ids[counted]
    sums = []
    for at, layer in enumerate(layers):
        own = experts[:, at]
        sums.append(_counted(np.bincount(own[own >= 0], minlength=layer.num_experts).astype(np.float64)))
    return TextTrace(
        text_id=name.text_id,
        label=name.label,
        num_tokens=len(experts),
        num_masked=int((~counted).sum()),
        layers=tuple(sums),
        tokens=TokenTrace(token_ids=ids, experts=experts),
    )


def unit_of_counts(name: UnitName, counts_LE: Iterable[FloatArray], num_tokens: int) -> TextTrace:
    """Return the trace of a unit of which only the selections of each expert were counted, by layer [E]."""
    layers = tuple(_counted(np.asarray(counts, dtype=np.float64)) for counts in counts_LE)
    return TextTrace(text_id=name.text_id, label=name.label, num_tokens=num_tokens, num_masked=0, layers=layers)


def _counted(counts_E: FloatArray) -> LayerSums:
    undefined = np.full(len(SUMS), np.nan)
    return LayerSums(selected=counts_E, mass=np.full_like(counts_E, np.nan), sums=undefined, squares=undefined)
