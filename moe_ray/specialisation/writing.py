"""Write traces as a stream of texts, and merge traces of disjoint texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moe_ray.arrays import FloatArray
from moe_ray.errors import UserError
from moe_ray.files import write_directory_atomically, write_json
from moe_ray.fingerprint import file_sha256
from moe_ray.specialisation.records import (
    LAYERS_FILE,
    LAYERS_SCHEMA,
    MANIFEST_FILE,
    NORMS,
    PIECES_FILE,
    PIECES_SCHEMA,
    SIMILARITY_FILE,
    SIMILARITY_SCHEMA,
    SUMS,
    TEXTS_FILE,
    TEXTS_SCHEMA,
    TOKENS_FILE,
    TOKENS_SCHEMA,
    FileRecord,
    LayerTrace,
    TokenTrace,
    Trace,
    TraceManifest,
    read_trace,
)

TEXTS_AT_A_TIME = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSums:
    """Sums over one text's tokens in one layer: `selected` and `mass` [E], `sums` and `squares` [len(SUMS)]."""

    selected: FloatArray
    mass: FloatArray
    sums: FloatArray
    squares: FloatArray
    norms: dict[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextTrace:
    """What was traced of one text: one `LayerSums` per layer."""

    text_id: str
    label: str
    num_tokens: int
    num_masked: int
    layers: tuple[LayerSums, ...]
    tokens: TokenTrace | None = None


def write_trace(
    directory: Path,
    manifest: TraceManifest,
    texts: Iterable[TextTrace],
    *,
    with_tokens: bool = False,
    similarity: Callable[[], pa.Table | None] = lambda: None,
    piece_of: Callable[[int], str | None] | None = None,
) -> TraceManifest:
    """Write `texts`, which come ordered by id, and return the manifest with their numbers.

    A trace at `directory` is replaced whole, and only when everything is written. `similarity` is asked at the end.
    `piece_of` gives the letters of each token id that was written; None leaves it out.
    """
    done: list[TraceManifest] = []

    def write(folder: Path) -> None:
        token_ids: set[int] = set()
        totals = _write_tables(folder, manifest, _collecting(texts, token_ids), with_tokens=with_tokens)
        pieces = [] if piece_of is None else [(token, piece_of(token)) for token in sorted(token_ids)]
        if pieces:
            pq.write_table(_pieces_table(pieces), folder / PIECES_FILE, compression="zstd")
        table = similarity()
        if table is not None:
            pq.write_table(table, folder / SIMILARITY_FILE)
        files = {path.name: _file_record(path) for path in sorted(folder.glob("*.parquet"))}
        done.append(manifest.model_copy(update={**totals, "files": files}))
        write_json(folder / MANIFEST_FILE, done[0])

    write_directory_atomically(directory, write)
    return done[0]


def _collecting(texts: Iterable[TextTrace], token_ids: set[int]) -> Iterator[TextTrace]:
    for text in texts:
        if text.tokens is not None:
            token_ids.update(text.tokens.token_ids.tolist())
        yield text


def _pieces_table(pieces: Sequence[tuple[int, str | None]]) -> pa.Table:
    known = [(token, piece) for token, piece in pieces if piece is not None]
    return pa.table(
        {"token_id": [token for token, _ in known], "piece": [piece for _, piece in known]}, schema=PIECES_SCHEMA
    )


def _file_record(path: Path) -> FileRecord:
    return FileRecord(num_bytes=path.stat().st_size, sha256=file_sha256(path))


def _write_tables(
    folder: Path, manifest: TraceManifest, texts: Iterable[TextTrace], *, with_tokens: bool
) -> dict[str, int]:
    totals = {"num_texts": 0, "num_tokens": 0, "num_masked": 0}
    schemas = {TEXTS_FILE: TEXTS_SCHEMA, LAYERS_FILE: LAYERS_SCHEMA}
    schemas |= {TOKENS_FILE: TOKENS_SCHEMA} if with_tokens else {}
    writers = {name: pq.ParquetWriter(folder / name, schema, compression="zstd") for name, schema in schemas.items()}
    try:
        for group in _groups(texts):
            tables = {TEXTS_FILE: _texts_table(group), LAYERS_FILE: _layers_table(group, manifest)}
            tables |= {TOKENS_FILE: _tokens_table(group)} if with_tokens else {}
            for name, table in tables.items():
                writers[name].write_table(table)
            totals["num_texts"] += len(group)
            totals["num_tokens"] += sum(text.num_tokens for text in group)
            totals["num_masked"] += sum(text.num_masked for text in group)
    finally:
        for writer in writers.values():
            writer.close()
    return totals


def _groups(texts: Iterable[TextTrace]) -> Iterator[list[TextTrace]]:
    group: list[TextTrace] = []
    for text in texts:
        group.append(text)
        if len(group) == TEXTS_AT_A_TIME:
            yield group
            group = []
    if group:
        yield group


def _texts_table(texts: Sequence[TextTrace]) -> pa.Table:
    columns = {name: [getattr(text, name) for text in texts] for name in TEXTS_SCHEMA.names}
    return pa.table(columns, schema=TEXTS_SCHEMA)


def _layers_table(texts: Sequence[TextTrace], manifest: TraceManifest) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for text in texts:
        for record, sums in zip(manifest.layers, text.layers, strict=True):
            row: dict[str, Any] = {"text_id": text.text_id, "layer": record.layer}
            row |= {"selected": sums.selected.astype(np.int32), "mass": sums.mass}
            row |= dict(zip(SUMS, map(float, sums.sums), strict=True))
            row |= {f"{name}_squares": float(value) for name, value in zip(SUMS, sums.squares, strict=True)}
            row |= {name: sums.norms.get(name) for name in NORMS}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=LAYERS_SCHEMA)


def _tokens_table(texts: Sequence[TextTrace]) -> pa.Table:
    traced = [(text.text_id, text.tokens) for text in texts if text.tokens is not None]
    columns = {
        "text_id": [text_id for text_id, _ in traced],
        "token_ids": [tokens.token_ids for _, tokens in traced],
        "experts": [tokens.experts.ravel() for _, tokens in traced],
    }
    return pa.table(columns, schema=TOKENS_SCHEMA)


def merge_traces(directories: Sequence[Path], out: Path) -> TraceManifest:
    """Write the trace of all texts of several traces to `out`: the same bytes as one trace of them would have.

    Raises `UserError` for traces of other models or settings, and for texts that two of them hold.
    """
    traces = [read_trace(directory, with_tokens=True) for directory in directories]
    manifest = merged_manifest([trace.manifest for trace in traces], [str(path) for path in directories])
    with_tokens = all(trace.tokens or not trace.text_ids for trace in traces)
    similarity = next((trace.similarity for trace in traces if trace.similarity is not None), None)
    pieces = _merged_pieces(traces)
    return write_trace(
        out,
        manifest,
        _merged_texts(traces),
        with_tokens=with_tokens,
        similarity=lambda: similarity,
        piece_of=pieces.get if with_tokens and pieces else None,
    )


def _merged_pieces(traces: Sequence[Trace]) -> dict[int, str]:
    return {token: piece for trace in traces for token, piece in trace.pieces.items()}


def merge(traces: Sequence[Trace], names: Sequence[str]) -> Trace:
    """Return the trace of all texts of several traces; raises `UserError` as `merge_traces` does."""
    if len(traces) == 1:
        return traces[0]
    manifest = merged_manifest([trace.manifest for trace in traces], names)
    texts = list(_merged_texts(traces))
    return Trace(
        manifest=manifest,
        text_ids=tuple(text.text_id for text in texts),
        labels=tuple(text.label for text in texts),
        num_tokens=np.array([text.num_tokens for text in texts], dtype=np.float64),
        num_masked=np.array([text.num_masked for text in texts], dtype=np.float64),
        layers=tuple(_stacked(texts, at, traces[0].layers[at]) for at in range(len(manifest.layers))),
        tokens=tuple(text.tokens for text in texts if text.tokens is not None),
        similarity=next((trace.similarity for trace in traces if trace.similarity is not None), None),
        pieces=_merged_pieces(traces),
    )


def _stacked(texts: Sequence[TextTrace], at: int, like: LayerTrace) -> LayerTrace:
    rows = [text.layers[at] for text in texts]
    return LayerTrace(
        record=like.record,
        selected=np.stack([row.selected for row in rows]),
        mass=np.stack([row.mass for row in rows]),
        sums=np.stack([row.sums for row in rows]),
        squares=np.stack([row.squares for row in rows]),
        norms={name: np.stack([row.norms[name] for row in rows]) for name in like.norms},
    )


def merged_manifest(manifests: Sequence[TraceManifest], names: Sequence[str]) -> TraceManifest:
    """Return the manifest of merged traces, without files. Raises `UserError` where they do not fit each other."""
    first = manifests[0]
    for manifest, name in zip(manifests[1:], names[1:], strict=True):
        different = [key for key, value in manifest.comparable.items() if value != first.comparable[key]]
        if different:
            raise UserError(
                f"differs from {names[0]} in {', '.join(different)}",
                where=name,
                remedy="merge traces of one model with equal settings",
            )
    sums = {name: sum(getattr(one, name) for one in manifests) for name in ("num_texts", "num_tokens", "num_masked")}
    notes = sorted({note for manifest in manifests for note in manifest.notes})
    return first.model_copy(update={**sums, "notes": notes, "files": {}})


def _merged_texts(traces: Sequence[Trace]) -> Iterator[TextTrace]:
    places = sorted(
        (text_id, which, at) for which, trace in enumerate(traces) for at, text_id in enumerate(trace.text_ids)
    )
    for (text_id, _, _), (following, _, _) in pairwise(places):
        if text_id == following:
            raise UserError(f"text {text_id} is in two of the traces", remedy="merge traces of different texts")
    for _, which, at in places:
        yield text_at(traces[which], at)


def text_at(trace: Trace, at: int) -> TextTrace:
    """Return the rows of one text."""
    layers = [
        LayerSums(
            selected=layer.selected[at],
            mass=layer.mass[at],
            sums=layer.sums[at],
            squares=layer.squares[at],
            norms={name: values[at] for name, values in layer.norms.items()},
        )
        for layer in trace.layers
    ]
    return TextTrace(
        text_id=trace.text_ids[at],
        label=trace.labels[at],
        num_tokens=int(trace.num_tokens[at]),
        num_masked=int(trace.num_masked[at]),
        layers=tuple(layers),
        tokens=trace.tokens[at] if trace.tokens else None,
    )


def similarity_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the table of similarities of pairs of experts."""
    return pa.Table.from_pylist(list(rows), schema=SIMILARITY_SCHEMA)
