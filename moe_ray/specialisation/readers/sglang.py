"""Dumps of SGLang's expert distribution recorder, in this package's format. Reads tensors with torch.

`/dump_expert_distribution_record` writes torch files expert_distribution_recorder_*.pt, by
--expert-distribution-recorder-mode:

| mode | content |
| --- | --- |
| stat, stat_approx | `logical_count` [S, L, E]: selections in S forward passes, summed over ranks; unused steps are 0 |
| per_pass | `records` of passes and ranks with `global_physical_count` [L, P] |
| per_token | `records` that also have `input_ids` [T] and `topk_ids_of_layer` [L, T, 8], -1 for none |

A physical expert is a copy of the logical expert that `last_physical_to_logical_map` [L, P] names. Forward passes are
the units: a pass mixes requests, there are no classes, and neither weights nor scores are recorded. (SGLang:
python/sglang/srt/eplb/expert_distribution.py)

Shapes: S passes, L layers, E logical and P physical experts, T tokens, K selected experts.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.errors import DataError, UserError, first_line
from moe_ray.fingerprint import fingerprint
from moe_ray.formatting import plural
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.readers.units import (
    Selected,
    UnitName,
    imported_layer,
    imported_manifest,
    unit_of_counts,
    unit_of_tokens,
)
from moe_ray.specialisation.records import TraceManifest
from moe_ray.specialisation.writing import TextTrace, write_trace

PATTERN = "expert_distribution_recorder_*.pt"
REMEDY = (
    "name a file or the folder that /dump_expert_distribution_record wrote: SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"
)
TOP_K_REMEDY = "give the number of experts that a token selects as --top-k, or record with mode per_token"
COUNT_KEY, RECORDS_KEY, MAP_KEY = "logical_count", "records", "last_physical_to_logical_map"
TOKENS_KEY, PHYSICAL_KEY, PASS_KEY = "topk_ids_of_layer", "global_physical_count", "forward_pass_id"
UNITS_NOTE = "imported from SGLang: units are forward passes, which mix requests; no weights, entropies and margins"
COUNTS_NOTE = "ranks that route the same tokens (tensor parallelism) count them each"


class _Pass(NamedTuple):
    """The tokens of one forward pass on one rank: ids [T], and the selected logical experts [L, T, K], -1 for none.

    `is_repeated`: another rank routed the same tokens.
    """

    name: UnitName
    token_ids: list[int]
    experts: Selected
    num_experts: int
    is_repeated: bool = False


def import_sglang(source: Path, out: Path, *, top_k: int | None = None) -> TraceManifest:
    """Write the passes of all dumps in `source`, a file or a folder, as one trace to `out`.

    `top_k` is needed for dumps of counts, which do not say how many experts a token selects. Raises `DataError`.
    """
    paths = sorted(source.glob(PATTERN)) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"holds no {PATTERN}", where=str(source), remedy=REMEDY)
    kinds = {path: _kind(_load(path), path) for path in paths}
    if len(set(kinds.values())) > 1:
        what = f"holds dumps of different modes: {kinds[paths[0]]} and {kinds[paths[-1]]}"
        raise DataError(what, where=str(source), remedy="give dumps of one mode")
    if kinds[paths[0]] == TOKENS_KEY:
        return _import_tokens(source, paths, out)
    if top_k is None:
        raise UserError("its dumps count selections, not tokens", where=str(source), remedy=TOP_K_REMEDY)
    return _import_counts(source, paths, out, top_k)


def _load(path: Path) -> Mapping[str, Any]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises anything for a file that is not its own; the cause is kept.
        raise DataError(f"is not a whole torch file: {first_line(error)}", where=str(path), remedy=REMEDY) from error
    if not isinstance(content, dict):
        raise DataError("is not a dump of expert distributions", where=str(path), remedy=REMEDY)
    return content


def _kind(dump: Mapping[str, Any], path: Path) -> str:
    """Return the key that decides how a dump is read."""
    if COUNT_KEY in dump:
        return COUNT_KEY
    records = dump.get(RECORDS_KEY)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError("is not a dump of expert distributions", where=str(path), remedy=REMEDY)
    if not records:
        raise DataError("holds no forward passes", where=str(path), remedy="send requests between start and dump")
    return TOKENS_KEY if TOKENS_KEY in records[0] else PHYSICAL_KEY


def _array(content: Mapping[str, Any], key: str, num_axes: int, path: Path) -> IntArray:
    try:
        found = np.asarray(content[key])
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"has no {key}", where=str(path), remedy=REMEDY) from error
    if found.ndim != num_axes or found.dtype.kind not in "iu":
        what = f"its {key} is {found.dtype} of shape {list(found.shape)}, not numbers with {num_axes} axes"
        raise DataError(what, where=str(path), remedy=REMEDY)
    return found.astype(np.intp)


def _logical_map(dump: Mapping[str, Any], path: Path) -> IntArray:
    found = _array(dump, MAP_KEY, 2, path)
    if not found.size or found.min() < 0:
        raise DataError(f"its {MAP_KEY} names no experts", where=str(path), remedy=REMEDY)
    return found


def _import_tokens(source: Path, paths: Sequence[Path], out: Path) -> TraceManifest:
    widths: list[tuple[int, ...]] = []
    num_experts, num_repeated = 0, 0
    for one in _passes(paths):
        is_used = (one.experts >= 0).any(axis=1)  # [L, K]
        widths.append(tuple(np.where(is_used, np.arange(1, is_used.shape[1] + 1), 0).max(axis=1)))
        num_experts, num_repeated = max(num_experts, one.num_experts), num_repeated + one.is_repeated
    if len({len(width) for width in widths}) > 1:
        raise DataError("holds dumps of other models", where=str(source), remedy="give the dumps of one model")
    layers = [
        imported_layer(at, f"model.layers.{at}", num_experts=num_experts, top_k=int(top_k))
        for at, top_k in enumerate(np.max(widths, axis=0))
        if top_k
    ]
    if not layers:
        raise DataError("no layer selects experts", where=str(source), remedy=REMEDY)
    notes = [UNITS_NOTE]
    if num_repeated:
        notes.append(f"left out: {plural(num_repeated, 'record')} of a rank that repeats another rank's tokens")
    manifest = imported_manifest(str(source), "sglang", layers, with_tokens=True, notes=notes)
    return write_trace(out, manifest, _token_units(paths, layers), with_tokens=True)


def _token_units(paths: Sequence[Path], layers: Sequence[TracedLayer]) -> Iterator[TextTrace]:
    for one in _passes(paths):
        if one.is_repeated:
            continue
        selected = [one.experts[layer.layer, :, : layer.top_k] for layer in layers]
        unit = unit_of_tokens(one.name, selected, layers, one.token_ids)
        if unit.num_tokens:
            yield unit


def _passes(paths: Sequence[Path]) -> Iterator[_Pass]:
    """Yield the passes of all files, ordered by file and pass."""
    seen: set[str] = set()
    for number, path in enumerate(paths):
        dump = _load(path)
        logical = _logical_map(dump, path)
        for record in sorted(dump[RECORDS_KEY], key=lambda record: _pass_id(record, path)):
            found = _pass(record, logical, UnitName(f"{number:06}/{_pass_id(record, path):012}"), path)
            routed = hashlib.sha256(found.experts.tobytes()).hexdigest()
            mark = fingerprint([_pass_id(record, path), found.token_ids, routed])
            yield found._replace(is_repeated=mark in seen)
            seen.add(mark)


def _pass_id(record: Mapping[str, Any], path: Path) -> int:
    found = record.get(PASS_KEY)
    if not isinstance(found, int) or found < 0:
        raise DataError(f"a record has the {PASS_KEY} {found!r}", where=str(path), remedy=REMEDY)
    return found


def _pass(record: Mapping[str, Any], logical: IntArray, name: UnitName, path: Path) -> _Pass:
    physical, ids = _array(record, TOKENS_KEY, 3, path), _array(record, "input_ids", 1, path)
    if physical.shape[:2] != (len(logical), len(ids)):
        what = f"pass {name.text_id} has experts of {list(physical.shape[:2])} layers and tokens"
        raise DataError(f"{what}, not of {[len(logical), len(ids)]}", where=str(path), remedy=REMEDY)
    if physical.max(initial=-1) >= logical.shape[1]:
        what = f"selects expert {physical.max()} of {logical.shape[1]}"
        raise DataError(what, where=str(path), remedy="record with --disable-shared-experts-fusion")
    flat = physical.reshape(len(physical), -1)
    experts = np.where(flat >= 0, np.take_along_axis(logical, flat.clip(min=0), axis=1), -1)
    tokens = [int(one) for one in ids]
    return _Pass(name, tokens, experts.reshape(physical.shape).astype(np.int16), int(logical.max()) + 1)


def _import_counts(source: Path, paths: Sequence[Path], out: Path, top_k: int) -> TraceManifest:
    units = _counted_passes(paths)
    if not units:
        raise DataError("holds no selections", where=str(source), remedy="send requests between start and dump")
    if len({counts.shape for counts in units.values()}) > 1:
        raise DataError("holds dumps of other models", where=str(source), remedy="give the dumps of one model")
    total = np.sum(list(units.values()), axis=0)
    if top_k > total.shape[1]:
        raise UserError(f"{top_k} of {plural(total.shape[1], 'expert')}", where="--top-k", remedy=TOP_K_REMEDY)
    kept = [at for at in range(len(total)) if total[at].any()]
    layers = [imported_layer(at, f"model.layers.{at}", num_experts=total.shape[1], top_k=top_k) for at in kept]
    manifest = imported_manifest(str(source), "sglang", layers, with_tokens=False, notes=[UNITS_NOTE, COUNTS_NOTE])
    return write_trace(out, manifest, _count_units(units, kept, top_k, source))


def _counted_passes(paths: Sequence[Path]) -> dict[str, FloatArray]:
    """Return the selections of logical experts [L, E] of each pass that has any, by its name."""
    units: dict[str, FloatArray] = {}
    for number, path in enumerate(paths):
        dump = _load(path)
        if COUNT_KEY in dump:
            for step, counts in enumerate(_array(dump, COUNT_KEY, 3, path)):
                units[f"{number:06}/{step:012}"] = counts.astype(np.float64)
            continue
        logical = _logical_map(dump, path)
        for record in dump[RECORDS_KEY]:
            name = f"{_pass_id(record, path):012}"
            units[name] = units.get(name, 0.0) + _logical_counts(record, logical, path)
    return {name: units[name] for name in sorted(units) if units[name].any()}


def _logical_counts(record: Mapping[str, Any], logical: IntArray, path: Path) -> FloatArray:
    physical = _array(record, PHYSICAL_KEY, 2, path)
    if physical.shape != logical.shape:
        what = f"counts {list(physical.shape)} layers and experts, and maps {list(logical.shape)}"
        raise DataError(what, where=str(path), remedy=REMEDY)
    counts = np.zeros((len(logical), int(logical.max()) + 1))
    np.add.at(counts, (np.arange(len(logical))[:, None], logical), physical)
    return counts


def _count_units(units: Mapping[str, FloatArray], kept: Sequence[int], top_k: int, source: Path) -> Iterator[TextTrace]:
    for name, counts in units.items():
        sums = counts[kept].sum(axis=1)
        if (sums % top_k).any():
            layer = kept[int(np.argmax(sums % top_k > 0))]
            what = f"pass {name} has {int(counts[layer].sum())} selections in layer {layer}, not a multiple of {top_k}"
            raise DataError(what, where=str(source), remedy=f"{TOP_K_REMEDY}; stat_approx counts are approximate")
        yield unit_of_counts(UnitName(name), counts[kept], int(sums.max()) // top_k)
