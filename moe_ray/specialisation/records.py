"""A trace: per text and layer, which experts were selected. Written once; read without torch.

```
TRACE/
  trace.json         the model, its layers, the settings, sizes and hashes of the other files; written last
  texts.parquet      one row per text: text_id, label, num_tokens, num_masked
  layers.parquet     one row per text and layer: sums over the text's tokens
  tokens.parquet     on request: token ids and selected experts of each text
  pieces.parquet     with tokens: the letters of each token id that occurs
  similarity.parquet on request: similarities of pairs of experts
```

Rows are ordered by text id. A text is never divided, so that traces of disjoint texts merge without rounding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from moe_ray.arrays import FloatArray
from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord, read_bytes
from moe_ray.fingerprint import file_sha256
from moe_ray.mixtures.layers import TracedLayer

MANIFEST_FILE = "trace.json"
TEXTS_FILE, LAYERS_FILE, TOKENS_FILE = "texts.parquet", "layers.parquet", "tokens.parquet"
SIMILARITY_FILE, PIECES_FILE = "similarity.parquet", "pieces.parquet"
REMEDY = "trace the texts again with moe-ray specialise trace"

# Sums over a text's tokens, each with the sum of squares. Entropies are in bits, the others are probabilities.
SUMS = ("entropy", "weight_entropy", "set_margin", "top_margin", "top_probability")
# Sums over a text's selections of each expert: of ||f_e(x)||, and of weight times ||f_e(x)||.
NORMS = ("norm", "gated_norm")
# The id of a token of which only the selected experts were recorded.
UNKNOWN_TOKEN = -1

TEXTS_SCHEMA = pa.schema(
    [("text_id", pa.string()), ("label", pa.string()), ("num_tokens", pa.int64()), ("num_masked", pa.int64())]
)
LAYERS_SCHEMA = pa.schema(
    [
        ("text_id", pa.string()),
        ("layer", pa.int32()),
        ("selected", pa.list_(pa.int32())),
        ("mass", pa.list_(pa.float64())),
        *((name, pa.float64()) for name in SUMS),
        *((f"{name}_squares", pa.float64()) for name in SUMS),
        *((name, pa.list_(pa.float64())) for name in NORMS),
    ]
)
TOKENS_SCHEMA = pa.schema(
    [("text_id", pa.string()), ("token_ids", pa.list_(pa.int32())), ("experts", pa.list_(pa.int16()))]
)
PIECES_SCHEMA = pa.schema([("token_id", pa.int32()), ("piece", pa.string())])
SIMILARITY_SCHEMA = pa.schema(
    [("layer", pa.int32()), ("a", pa.int32()), ("b", pa.int32()), ("weights", pa.float64()), ("outputs", pa.float64())]
)


class FileRecord(StoredRecord):
    """Size and hash of a file of the trace."""

    num_bytes: int
    sha256: str


class TraceManifest(StoredRecord):
    """What was traced. `unit` is what a router decides for: each token, or a whole text.

    `settings` decide the numbers: traces with other settings, or of another model, do not merge.
    """

    format: Literal[1] = 1
    moe_ray_version: str
    model: str
    model_type: str
    model_fingerprint: str
    unit: Literal["token", "text"]
    layers: list[TracedLayer] = Field(min_length=1)
    expert_names: list[str] = Field(default_factory=list)
    settings: dict[str, Any]
    num_texts: int
    num_tokens: int
    num_masked: int
    notes: list[str] = Field(default_factory=list)
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def comparable(self) -> dict[str, Any]:
        """The part that traces must share to be merged."""
        kept = {"model_type", "model_fingerprint", "unit", "layers", "expert_names", "settings"}
        return self.model_dump(include=kept)

    def expert_name(self, expert: int) -> str:
        """Return the expert's name, or its number."""
        return self.expert_names[expert] if expert < len(self.expert_names) else str(expert)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerTrace:
    """One layer's arrays over n texts: `selected` and `mass` [n, E]; `sums` and `squares` [n, len(SUMS)].

    `norms` holds "norm" and "gated_norm" [n, E], or nothing where they were not traced. NaN: not defined here.
    """

    record: TracedLayer
    selected: FloatArray
    mass: FloatArray
    sums: FloatArray
    squares: FloatArray
    norms: dict[str, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTrace:
    """One text's tokens: ids [T], and each layer's selected experts [T, L, K] in the router's order, -1 for none."""

    token_ids: np.ndarray[Any, np.dtype[np.int32]]
    experts: np.ndarray[Any, np.dtype[np.int16]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """A trace in memory, texts ordered by id. `labels` are classes, "" for texts without one.

    `tokens` has one entry per text where raw indices were traced, else it is empty; `pieces` are the letters of token
    ids, where they were traced too.
    """

    manifest: TraceManifest
    text_ids: tuple[str, ...]
    labels: tuple[str, ...]
    num_tokens: FloatArray
    num_masked: FloatArray
    layers: tuple[LayerTrace, ...]
    tokens: tuple[TokenTrace, ...] = ()
    similarity: pa.Table | None = None
    pieces: dict[int, str] = field(default_factory=dict)


def read_trace(directory: Path, *, with_tokens: bool = False) -> Trace:
    """Read a trace. Raises `RunDirectoryError` for what is none, and for one that is truncated or damaged."""
    manifest = read_manifest(directory)
    for name, record in manifest.files.items():
        _require_whole(directory / name, record)
    try:
        texts = pq.read_table(directory / TEXTS_FILE, schema=TEXTS_SCHEMA)
        layers = pq.read_table(directory / LAYERS_FILE, schema=LAYERS_SCHEMA)
        tokens = _tokens(directory, manifest) if with_tokens and TOKENS_FILE in manifest.files else ()
        similarity = pq.read_table(directory / SIMILARITY_FILE) if SIMILARITY_FILE in manifest.files else None
        pieces = _pieces(directory) if with_tokens and PIECES_FILE in manifest.files else {}
        return from_tables(manifest, texts, layers, tokens, similarity, pieces)
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise RunDirectoryError(f"is damaged: {error}", where=str(directory), remedy=REMEDY) from error


def read_manifest(directory: Path) -> TraceManifest:
    """Read what a trace is of. Raises `RunDirectoryError`."""
    path = directory / MANIFEST_FILE
    try:
        return TraceManifest.model_validate_json(read_bytes(path))
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"is not a trace: there is no {MANIFEST_FILE}", where=str(directory), remedy=REMEDY
        ) from error
    except (OSError, ValidationError) as error:
        raise RunDirectoryError("is not the manifest of a trace", where=str(path), remedy=REMEDY) from error


def _require_whole(path: Path, record: FileRecord) -> None:
    num_bytes = path.stat().st_size if path.is_file() else 0
    if num_bytes != record.num_bytes:
        what = f"is truncated: {num_bytes} of {record.num_bytes} bytes"
        raise RunDirectoryError(what, where=str(path), remedy=REMEDY)
    if file_sha256(path) != record.sha256:
        raise RunDirectoryError("is damaged: its bytes were changed", where=str(path), remedy=REMEDY)


def from_tables(
    manifest: TraceManifest,
    texts: pa.Table,
    layers: pa.Table,
    tokens: Sequence[TokenTrace] = (),
    similarity: pa.Table | None = None,
    pieces: Mapping[int, str] | None = None,
) -> Trace:
    """Return the arrays of a trace's tables, of which the rows are in the order of the files."""
    num_texts, num_layers = texts.num_rows, len(manifest.layers)
    if layers.num_rows != num_texts * num_layers:
        raise ValueError(f"{layers.num_rows} rows for {num_texts} texts and {num_layers} layers")
    found = [
        _layer(layers.take(pa.array(range(at, layers.num_rows, num_layers))), record, num_texts)
        for at, record in enumerate(manifest.layers)
    ]
    return Trace(
        manifest=manifest,
        text_ids=tuple(texts["text_id"].to_pylist()),
        labels=tuple(texts["label"].to_pylist()),
        num_tokens=texts["num_tokens"].to_numpy().astype(np.float64),
        num_masked=texts["num_masked"].to_numpy().astype(np.float64),
        layers=tuple(found),
        tokens=tuple(tokens),
        similarity=similarity,
        pieces=dict(pieces or {}),
    )


def _layer(rows: pa.Table, record: TracedLayer, num_texts: int) -> LayerTrace:
    shape = (num_texts, record.num_experts)
    norms = {name: _lists(rows[name], shape) for name in NORMS if num_texts and rows[name].null_count == 0}
    return LayerTrace(
        record=record,
        selected=_lists(rows["selected"], shape),
        mass=_lists(rows["mass"], shape),
        sums=_columns(rows, SUMS),
        squares=_columns(rows, [f"{name}_squares" for name in SUMS]),
        norms=norms,
    )


def _lists(column: pa.ChunkedArray, shape: tuple[int, int]) -> FloatArray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(shape)


def _columns(rows: pa.Table, names: Sequence[str]) -> FloatArray:
    values = [rows[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names]
    return np.stack(values, axis=1)


def _pieces(directory: Path) -> dict[int, str]:
    table = pq.read_table(directory / PIECES_FILE, schema=PIECES_SCHEMA)
    return dict(zip(table["token_id"].to_pylist(), table["piece"].to_pylist(), strict=True))


def _tokens(directory: Path, manifest: TraceManifest) -> list[TokenTrace]:
    widths = [record.top_k for record in manifest.layers]
    table = pq.read_table(directory / TOKENS_FILE, schema=TOKENS_SCHEMA)
    found = []
    for ids, experts in zip(table["token_ids"], table["experts"], strict=True):
        token_ids = np.asarray(ids.values, dtype=np.int32)
        shape = (len(token_ids), len(widths), max(widths))
        found.append(TokenTrace(token_ids=token_ids, experts=np.asarray(experts.values, dtype=np.int16).reshape(shape)))
    return found
