"""Verify a mixture: recompute its certificate from the sources and compare."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moe_ray.checkpoints.identity import identity_files
from moe_ray.checkpoints.source import SourceRecord
from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.errors import UserError, first_line
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.moe.exactness import Finding, finding
from moe_ray.moe.records import Certificate, read_certificate

# What the file of texts is called among what has moved.
TEXTS = "texts"
RECOMPUTERS = {
    "upcycled": "moe_ray.moe.upcycle.build:recompute",
    "merged": "moe_ray.moe.merge.build:recompute",
    "trained_apart": "moe_ray.moe.btx.build:recompute",
}


Recompute = Callable[[Path, Certificate, Mapping[str, Path]], Iterator[Finding]]
"""Recompute what a kind of mixture's certificate says of tensors, layers and exactness, from the sources by name."""


def verify(directory: Path, moved: Mapping[str, Path] | None = None) -> Iterator[Finding]:
    """Check everything that the certificate of the mixture in `directory` says, one thing after the other.

    Sources are looked for where they were, or where `moved` says by their names; under the name "texts" it may tell
    where the file of texts is. Raises `ModelError` when there is no certificate, and for a name that is no source's.
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
    told = [origin.tensor for origin in certificate.tensors]
    sources = {source.name for source in certificate.sources}
    try:
        there = set(TensorReader(directory).names())
    except UserError as error:
        return Finding(what="names of tensors", holds=False, detail=error.what)
    wrong = [f"{name} is in the checkpoint alone" for name in sorted(there - set(told))]
    wrong += [f"{name} is in the certificate alone" for name in sorted(set(told) - there)]
    wrong += [
        f"{origin.tensor} comes from {origin.source}, which is not a source"
        for origin in certificate.tensors
        if origin.source is not None and not _is_known(origin.source, sources)
    ]
    return finding("names of tensors", wrong, f"{len(told)} tensors")


def _is_known(named: str, sources: set[str]) -> bool:
    """Whether `named` is a source, or all sources of a tensor that holds several experts, with commas between."""
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
        # What is missing or damaged on the way is told beside what was found already.
        yield Finding(what="recomputation", holds=None, detail=first_line(error))
