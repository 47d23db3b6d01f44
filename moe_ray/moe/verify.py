"""Verify a mixture: recompute its certificate from the sources and compare."""

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_ray.checkpoints.identity import identity_files
from moe_ray.checkpoints.source import SourceRecord
from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.errors import UserError, first_line
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.moe.certificate import Certificate, ExactnessRecord, LayerVerdict, TensorOrigin, read_certificate

NUM_NAMED = 3
# Sums differ between machines and numbers of threads.
RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = 1e-4
AGREEMENT_TOLERANCE = 0.01
GATE_TOLERANCE = 1e-3
GATE = "gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of a check. `holds` is None if it could not be checked; `detail` describes the difference."""

    what: str
    holds: bool | None
    detail: str = ""


def finding(what: str, wrong: Sequence[str], good: str) -> Finding:
    """Return the finding of a check: `wrong` lists its failures, `good` is the detail without any."""
    if not wrong:
        return Finding(what=what, holds=True, detail=good)
    more = f" and {len(wrong) - NUM_NAMED} more" if len(wrong) > NUM_NAMED else ""
    return Finding(what=what, holds=False, detail="; ".join(wrong[:NUM_NAMED]) + more)


def compare_tensors(here: TensorReader, there: TensorReader, origins: Sequence[TensorOrigin]) -> Finding:
    """Compare a mixture's tensors with those of a rebuilt mixture, one at a time.

    Gates may differ by rounding, as they are computed from texts; all other tensors must be bit-equal.
    """
    wrong = []
    others = set(there.names())
    for origin in origins:
        if origin.tensor not in others:
            wrong.append(f"{origin.tensor} is not made any more")
            continue
        first, second = here.get(origin.tensor), there.get(origin.tensor)
        equal = _nearly_equal(first, second) if origin.how == GATE else torch.equal(first, second)
        if not equal or first.dtype != second.dtype:
            wrong.append(f"{origin.tensor} differs{_by(first, second)}")
    return finding("tensors", wrong, f"all {len(origins)} come out again")


def compare_copies(here: TensorReader, sources: Mapping[str, Path], origins: Sequence[TensorOrigin]) -> Finding:
    """Compare copied tensors with their sources bit by bit, one at a time."""
    readers = {name: TensorReader(path) for name, path in sources.items()}
    wrong, num_held = [], 0
    for origin in origins:
        if origin.source is None or origin.source_tensor is None:
            continue
        num_held += 1
        first, second = here.get(origin.tensor), readers[origin.source].get(origin.source_tensor)
        if not torch.equal(first, second) or first.dtype != second.dtype:
            wrong.append(f"{origin.tensor} differs from {origin.source}'s {origin.source_tensor}{_by(first, second)}")
    return finding("tensors", wrong, f"{num_held} of {len(origins)} are their sources' own")


def _nearly_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.shape != second.shape:
        return False
    here, there = first.float(), second.float()
    return bool((here - there).abs().max() <= GATE_TOLERANCE * there.abs().max())


def _by(first: torch.Tensor, second: torch.Tensor) -> str:
    if first.shape != second.shape:
        return f": {tuple(first.shape)} and {tuple(second.shape)}"
    return f" by {(first.float() - second.float()).abs().max().item():.3g}"


def compare_layers(recorded: Sequence[LayerVerdict], found: Sequence[LayerVerdict]) -> Finding:
    """Compare the recorded verdicts with new ones: equal states and limits, figures equal up to rounding."""
    wrong = []
    if len(recorded) != len(found):
        wrong.append(f"{len(recorded)} layers in the certificate, and the mixture has {len(found)}")
    for one, other in zip(recorded, found, strict=False):
        if (one.layer, one.state) != (other.layer, other.state):
            wrong.append(f"layer {one.layer} is {one.state} in the certificate, and is now {other.state}")
        elif one.limits != other.limits:
            wrong.append(f"layer {one.layer} was tested against other limits")
        else:
            wrong += [f"layer {one.layer}: {text}" for text in _figures(one.measured, other.measured)]
    return finding("layers", wrong, f"{len(recorded)} verdicts reproduced")


def compare_exactness(recorded: Sequence[ExactnessRecord], found: Sequence[ExactnessRecord]) -> Iterator[Finding]:
    """Compare each source's record with a new one."""
    if not recorded:
        yield Finding(what="exactness", holds=None, detail="was not measured when the mixture was made")
    by_source = {record.against: record for record in found}
    for record in recorded:
        what, other = f"exactness against {record.against}", by_source.pop(record.against, None)
        if other is None:
            yield Finding(what=what, holds=None, detail="was not computed again")
            continue
        wrong = _figures(_measures(record), _measures(other))
        if record.num_tokens != other.num_tokens:
            wrong.append(f"over {record.num_tokens} tokens, and now {other.num_tokens}")
        if record.reload_equal != other.reload_equal:
            wrong.append("loaded again it gives " + ("the same logits" if other.reload_equal else "other logits"))
        good = (
            f"largest logit difference {other.max_logit_difference:.3g}, {other.greedy_agreement:.2%} of greedy tokens"
        )
        yield finding(what, wrong, good)


def _measures(record: ExactnessRecord) -> dict[str, float]:
    return {"max_logit_difference": record.max_logit_difference, "agreement": record.greedy_agreement}


def _figures(recorded: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    wrong = [f"{name} is not measured any more" for name in recorded if name not in found]
    shared = [name for name in recorded if name in found]
    return wrong + [
        f"{name} {recorded[name]:.3g}, and now {found[name]:.3g}"
        for name in shared
        if not _close(name, recorded[name], found[name])
    ]


def _close(name: str, recorded: float, found: float) -> bool:
    absolute = AGREEMENT_TOLERANCE if name == "agreement" else ABSOLUTE_TOLERANCE
    return math.isclose(recorded, found, rel_tol=RELATIVE_TOLERANCE, abs_tol=absolute)


# Name of the file of texts in `moved`.
TEXTS = "texts"
RECOMPUTERS = {
    "upcycled": "moe_ray.moe.upcycle.build:recompute",
    "merged": "moe_ray.moe.merge.build:recompute",
    "trained_apart": "moe_ray.moe.btx.build:recompute",
}


def verify(directory: Path, moved: Mapping[str, Path] | None = None) -> Iterator[Finding]:
    """Check the certificate of the mixture in `directory`, and yield a finding for each statement.

    `moved` maps names of sources to their current paths, and "texts" to that of the file of texts. Raises `ModelError`
    without a certificate, and `UserError` for an unknown name in `moved`.
    """
    certificate = read_certificate(directory)
    moved = moved or {}
    _require_known(certificate, moved)
    yield _own_files(directory, certificate)
    yield _tensor_names(directory, certificate)
    paths = {source.name: moved.get(source.name, Path(source.path)) for source in certificate.sources}
    sources = [_source(source, paths[source.name]) for source in certificate.sources]
    yield from sources
    if all(one.holds for one in sources):
        yield from _recomputed(directory, certificate, {**moved, **paths})
    else:
        yield Finding(what="tensors, layers, exactness", holds=None, detail="needs the sources as they were")


def _require_known(certificate: Certificate, moved: Mapping[str, Path]) -> None:
    known = {source.name for source in certificate.sources} | {TEXTS}
    for name in moved.keys() - known:
        raise UserError(
            f"no source is called {name}",
            where="--source",
            remedy=f"name one of: {', '.join(sorted(known - {TEXTS}))}",
        )


def _own_files(directory: Path, certificate: Certificate) -> Finding:
    weights = {path.name for path in directory.glob("*.safetensors")}
    strange = sorted(weights - certificate.tensors_sha256.keys())
    wrong = _wrong_files(directory, certificate.tensors_sha256)
    wrong += [f"{name} is not in the certificate" for name in strange]
    return finding("the mixture's files", wrong, f"{len(certificate.tensors_sha256)} files")


def _wrong_files(directory: Path, expected: Mapping[str, str]) -> list[str]:
    wrong = []
    for name, sha256 in expected.items():
        path = directory / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif file_sha256(path) != sha256:
            wrong.append(f"{name} has changed")
    return wrong


def _source(source: SourceRecord, path: Path) -> Finding:
    what = f"source {source.name}"
    if not path.is_dir():
        return Finding(
            what=what, holds=None, detail=f"{path} does not exist; give its place with --source {source.name}=PATH"
        )
    wrong = _wrong_files(path, source.files_sha256)
    strange = {one.name for one in identity_files(path)} - source.files_sha256.keys()
    wrong += [f"{name} is new" for name in sorted(strange)]
    if fingerprint(source.files_sha256) != source.fingerprint:
        wrong.append("the fingerprint is not that of the files")
    return finding(what, wrong, f"fingerprint {source.fingerprint}")


def _tensor_names(directory: Path, certificate: Certificate) -> Finding:
    named = [origin.tensor for origin in certificate.tensors]
    sources = {source.name for source in certificate.sources}
    try:
        there = set(TensorReader(directory).names())
    except UserError as error:
        return Finding(what="names of tensors", holds=False, detail=error.what)
    wrong = [f"{name} is in the checkpoint alone" for name in sorted(there - set(named))]
    wrong += [f"{name} is in the certificate alone" for name in sorted(set(named) - there)]
    wrong += [
        f"{origin.tensor} comes from {origin.source}, which is not a source"
        for origin in certificate.tensors
        if origin.source is not None and not _is_known(origin.source, sources)
    ]
    return finding("names of tensors", wrong, f"{len(named)} tensors")


def _is_known(named: str, sources: set[str]) -> bool:
    """Return whether `named` is a source, or a comma-separated list of sources (of a tensor with several experts)."""
    return named in sources or set(named.split(", ")) <= sources


def _recomputed(directory: Path, certificate: Certificate, paths: Mapping[str, Path]) -> Iterator[Finding]:
    if certificate.kind not in RECOMPUTERS:
        yield Finding(what="tensors, layers, exactness", holds=None, detail=f"not known how for {certificate.kind}")
        return
    module_name, _, function = RECOMPUTERS[certificate.kind].partition(":")
    recompute: Any = getattr(importlib.import_module(module_name), function)
    try:
        yield from recompute(directory, certificate, paths)
    except UserError as error:
        # Report missing or damaged files as a finding, after those that were made already.
        yield Finding(what="recomputation", holds=None, detail=first_line(error))
