"""The files of the answers: one for each shard when it is committed, merged into few and large ones afterwards.

A merged file names its parts, the shard files whose rows it holds, in its Parquet metadata. It is written whole before
its parts are deleted; a part that is still there beside it, because the process died in between, is superseded: readers
leave it out, and the next merge deletes it. So at every moment each answer counts once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moe_ray.atomic import write_atomically
from moe_ray.fingerprint import fingerprint
from moe_ray.store.answers import ANSWER_SCHEMA

PARTS_KEY = b"moe_ray.parts"
MERGED_PREFIX = "merged-"
# Opening a file costs about as much as reading a megabyte; a merge has to hold its parts in memory, ten times as large.
MIN_FILES_TO_MERGE = 256
SMALL_FILE_BYTES = 8 << 20
MERGED_BYTES = 32 << 20
# A data set keeps the metadata of all its files, some 75 kB each.
FILES_AT_A_TIME = 1000
ROW_ORDER = ("domain", "model", "example_id", "kind", "sample_index")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFiles:
    """The answer files of a folder. `parts` are the shard files that were ever committed, with their sizes in bytes."""

    current: tuple[Path, ...]
    superseded: tuple[Path, ...]
    parts: Mapping[str, int]


def list_answer_files(files: Iterable[Path]) -> AnswerFiles:
    """Separate the answer files that count from those that a merged file holds already.

    Raises `FileNotFoundError` when another process merges files in this moment: list them again.
    """
    paths = sorted(files)
    parts_of = {path: _parts(path) for path in paths}
    parts: dict[str, int] = {}
    current: list[Path] = []
    # Two files share all parts of the smaller one or none: what a merge reads, it takes whole.
    for path in sorted(paths, key=lambda path: (-len(parts_of[path]), path)):
        if parts_of[path].keys() <= parts.keys():
            continue
        parts.update(parts_of[path])
        current.append(path)
    superseded = sorted(set(paths).difference(current))
    return AnswerFiles(current=tuple(sorted(current)), superseded=tuple(superseded), parts=parts)


def _parts(path: Path) -> dict[str, int]:
    if not path.name.startswith(MERGED_PREFIX):
        return {path.name: path.stat().st_size}
    metadata = pq.read_metadata(path).metadata or {}
    parts: dict[str, int] = json.loads(metadata[PARTS_KEY])
    return parts


def merge_small_files(folder: Path) -> int:
    """Merge the small files of `folder` when there are many; return how many there were to merge.

    Only the process that holds the run directory may call this. Reading processes are not disturbed.
    """
    for leftover in (*list_answer_files(folder.glob("*.parquet")).superseded, *folder.glob(f".{MERGED_PREFIX}*.tmp")):
        leftover.unlink()
    small = [
        path for path in list_answer_files(folder.glob("*.parquet")).current if path.stat().st_size < SMALL_FILE_BYTES
    ]
    if len(small) < MIN_FILES_TO_MERGE:
        return 0
    for group in _groups(small):
        # One file alone would be written over itself.
        if len(group) > 1:
            _merge(folder, group)
    return len(small)


def _groups(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Files in their order, as many at a time as fit one merged file."""
    group: list[Path] = []
    num_bytes = 0
    for path in paths:
        size = path.stat().st_size
        if group and num_bytes + size > MERGED_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append(path)
        num_bytes += size
    if group:
        yield group


def _merge(folder: Path, paths: Sequence[Path]) -> None:
    parts = {name: size for path in paths for name, size in _parts(path).items()}
    table = read_files(paths).sort_by([(name, "ascending") for name in ROW_ORDER])
    path = folder / f"{MERGED_PREFIX}{fingerprint(sorted(parts))}.parquet"
    write_atomically(path, lambda temporary: _write_merged(temporary, table, parts))
    for part in paths:
        part.unlink()


def _write_merged(path: Path, table: pa.Table, parts: Mapping[str, int]) -> None:
    """Write the rows of each domain and model as row groups of their own, so that a reader of one skips the others."""
    fields = [field.with_nullable(field.nullable or table[field.name].null_count > 0) for field in table.schema]
    schema = pa.schema(fields, metadata={PARTS_KEY: json.dumps(parts).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _by_domain_and_model(table.cast(schema)):
            writer.write_table(group)


def _by_domain_and_model(table: pa.Table) -> Iterator[pa.Table]:
    counted = table.group_by(["domain", "model"], use_threads=False).aggregate([("key", "count")])
    start = 0
    for num_rows in counted["key_count"].to_pylist():
        yield table.slice(start, num_rows)
        start += num_rows


def read_files(
    paths: Sequence[Path], columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """Read answer files as one table, in their order, keeping the rows that `where` tells, or all.

    A column that a file of an earlier version lacks is null there. Raises `FileNotFoundError` for a file that is gone,
    and `pa.ArrowInvalid` or `OSError` for one that cannot be read.
    """
    names = list(columns or ANSWER_SCHEMA.names)
    parts = [paths[start : start + FILES_AT_A_TIME] for start in range(0, len(paths), FILES_AT_A_TIME)]
    tables = [_read_dataset(part, names, where) for part in parts]
    return pa.concat_tables(tables) if tables else ANSWER_SCHEMA.empty_table().select(names)


def _read_dataset(paths: Sequence[Path], names: list[str], where: pc.Expression | None) -> pa.Table:
    # It brings pandas along, which a command that reads no answers need not wait for.
    import pyarrow.dataset as pads

    dataset = pads.dataset([str(path) for path in paths], schema=ANSWER_SCHEMA, format="parquet")
    return dataset.to_table(columns=names, filter=where)
