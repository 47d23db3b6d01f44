"""Traces that Megatron-LM wrote with --moe-routing-trace-path, in this package's format. Needs no torch.

A folder holds router_trace_rank0.jsonl and so on, one record per step and layer: `step`, `layer`, `top_indices` [T, K],
and in later versions `block` and `stage`. Steps are the units: a step mixes texts, there are no classes, and neither
weights nor scores are recorded, so that mass, entropies and margins are absent. Records of other blocks than the
decoder (multi-token prediction) and of other stages than before dispatch are left out.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moe_ray.domains.example import Record
from moe_ray.domains.sources import read_file
from moe_ray.errors import DataError
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.readers.units import (
    Selected,
    UnitName,
    imported_layer,
    imported_manifest,
    unit_of_tokens,
)
from moe_ray.specialisation.records import TraceManifest
from moe_ray.specialisation.writing import TextTrace, write_trace

FILE_NAME = re.compile(r"router_trace_rank(\d+)\.jsonl$")
REMEDY = "name the folder that Megatron-LM was given as --moe-routing-trace-path, and all of the model's experts"


def import_megatron(folder: Path, out: Path, *, num_experts: int) -> TraceManifest:
    """Write the traces of all ranks in `folder` as one trace to `out`. Raises `DataError` for what is not one."""
    paths = sorted(
        (path for path in folder.glob("*.jsonl") if FILE_NAME.search(path.name)), key=lambda path: _rank(path)
    )
    if not paths:
        raise DataError("holds no router_trace_rank*.jsonl", where=str(folder), remedy=REMEDY)
    first = next(_steps(paths[0], num_experts))[1]
    layers = [
        imported_layer(layer, f"decoder.layers.{layer}", num_experts=num_experts, top_k=rows.shape[1])
        for layer, rows in first.items()
    ]
    notes = ["imported from Megatron-LM: units are steps, which mix texts; no weights, entropies and margins"]
    manifest = imported_manifest(str(folder), "megatron", layers, with_tokens=True, notes=notes)
    return write_trace(out, manifest, _units(paths, layers), with_tokens=True)


def _rank(path: Path) -> int:
    found = FILE_NAME.search(path.name)
    return int(found[1]) if found else 0


def _units(paths: Sequence[Path], layers: Sequence[TracedLayer]) -> Iterator[TextTrace]:
    for path in paths:
        for step, selected in _steps(path, layers[0].num_experts):
            if [(layer, rows.shape[1]) for layer, rows in selected.items()] != [
                (one.layer, one.top_k) for one in layers
            ]:
                raise DataError(f"step {step} has other layers than the first", where=str(path), remedy=REMEDY)
            yield unit_of_tokens(UnitName(f"{_rank(path):06}/{step:012}"), list(selected.values()), layers)


def _steps(path: Path, num_experts: int) -> Iterator[tuple[int, dict[int, Selected]]]:
    """Yield each step's selected experts [T, K] by layer, ordered by step and layer."""
    by_step: dict[int, dict[int, Selected]] = {}
    for number, record in enumerate(read_file(path), start=1):
        if record.get("block", "decoder") == "decoder" and record.get("stage", "pre_dispatch") == "pre_dispatch":
            step, layer, rows = _read(record, f"{path}:{number}", num_experts)
            by_step.setdefault(step, {})[layer] = rows
    if not by_step:
        raise DataError("holds no records of the decoder", where=str(path), remedy=REMEDY)
    for step in sorted(by_step):
        layers = {layer: by_step[step][layer] for layer in sorted(by_step[step])}
        if len({len(rows) for rows in layers.values()}) != 1:
            raise DataError(f"the layers of step {step} have other numbers of tokens", where=str(path), remedy=REMEDY)
        yield step, layers


def _read(record: Record, where: str, num_experts: int) -> tuple[int, int, Selected]:
    try:
        step, layer = int(record["step"]), int(record["layer"])
        rows = np.asarray(record["top_indices"], dtype=np.int64)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise DataError("is not a record with step, layer and top_indices", where=where, remedy=REMEDY) from error
    if rows.ndim != 2 or not rows.size:
        raise DataError("top_indices is not a table of tokens and experts", where=where, remedy=REMEDY)
    if rows.max() >= num_experts or step < 0 or layer < 0:
        raise DataError(f"expert {rows.max()} of {num_experts}", where=where, remedy=REMEDY)
    return step, layer, np.maximum(rows, -1).astype(np.int16)
