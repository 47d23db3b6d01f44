"""Where records come from: a local file in one of five formats, or a data set on the hub.

A record is a mapping from column to value. Local files:

.json     a list of objects; or an object of objects (each then gets its key as column `id`, as in PubMedQA's
          `ori_pqal.json`); or an object that holds only such a list (as BioASQ's files)
.jsonl    one object a line; blank lines are skipped
.csv      a header line, then rows; every value is a string. Commas, semicolons, tabs or vertical bars between the cells
.tsv      the same with tabs
.parquet  any table
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_ray.config.schema import LOCAL_DATA_SUFFIXES, DataConfig, is_local_path
from moe_ray.domains.example import Record
from moe_ray.errors import DataError, OfflineError, first_line
from moe_ray.files import JsonError, parse_json
from moe_ray.fingerprint import file_sha256
from moe_ray.hub import hub_answers, without_retries

DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_rows(text: str, path: Path) -> list[Record]:
    """Return the rows below the header; every value is a text. Blank lines are skipped.

    A `.tsv` file has tabs between its cells. In another file the delimiter is the one that cuts the header into most
    cells; commas where two cut it into as many. Raises `DataError` naming the line of what is malformed.
    """
    with _cells_of_any_size(text):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _require_names(header, path)
            return [_record(header, row, delimiter, f"{path}:{reader.line_num}") for row in reader if row]
        except csv.Error as error:
            raise DataError(
                f"malformed CSV: {error}",
                where=f"{path}:{reader.line_num}",
                remedy="correct the quotes of that row: a cell that holds quotes is quoted, and its quotes are doubled",
            ) from error


@contextmanager
def _cells_of_any_size(text: str) -> Iterator[None]:
    """Lift the 131,072 characters that the csv module allows a cell, which whole documents exceed."""
    before = csv.field_size_limit(max(len(text), 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str) -> str:
    def num_cells(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=num_cells)


def _require_names(header: Sequence[str], path: Path) -> None:
    twice = next((name for name, number in Counter(header).items() if number > 1), None)
    if twice is not None:
        raise DataError(
            f"two columns are called {twice!r}" if twice else "two columns have no name",
            where=f"{path}:1",
            remedy="give each column of the header a name of its own",
        )


def _record(header: Sequence[str], row: Sequence[str], delimiter: str, where: str) -> dict[str, Any]:
    if len(row) != len(header):
        raise DataError(
            f"the row has {len(row)} cells and the header {len(header)}: another number of cells",
            where=where,
            remedy=f"quote cells that hold {NAMES[delimiter]}, which separates the cells of this file",
        )
    return dict(zip(header, row, strict=True))


_NAMED_IN_MESSAGES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The records of a data set, and what identifies them (`origin` is ready for the manifest)."""

    records: list[Record]
    where: str
    origin: dict[str, Any]


# Reads a data set: `read_source`, or one that reads each data set once. The path is the experiment file's folder.
ReadSource = Callable[[DataConfig, Path], Source]


def read_source(data: DataConfig, base_dir: Path) -> Source:
    """Read all records of `data`. A relative path is one below `base_dir`, the experiment file's folder.

    Raises `DataError` when the data set is missing, unreadable, empty, or (for hub ids) out of reach.
    """
    source = _read_local(data, base_dir) if is_local_path(data.source) else _read_hub(data)
    if not source.records:
        raise DataError("the data set is empty", where=source.where, remedy="name a data set with records")
    return source


def resolve_path(text: str, base_dir: Path) -> Path:
    """Return the path that `text` names: `~` is the home directory, a relative path is one below `base_dir`."""
    return Path(os.path.realpath(base_dir / Path(text).expanduser()))  # Path.resolve() fails on a loop of links


def require_file(path: Path) -> None:
    """Raise `DataError` unless `path` is a readable file."""
    if path.is_dir():
        raise DataError("this is a folder, not a data file", where=str(path), remedy="name one file in it")
    if not path.is_file():
        raise DataError(
            "no such file",
            where=str(path),
            remedy="check the path; relative paths are resolved against the experiment file's folder",
        )


def read_text(path: Path) -> str:
    """Return a file's text. Raises `DataError` when it is missing or not UTF-8."""
    return _text_as_it_is(path).replace("\r\n", "\n").replace("\r", "\n")


def _text_as_it_is(path: Path) -> str:
    """Return a file's text with the line ends that it has; those inside of quotes belong to a cell."""
    require_file(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}", where=str(path), remedy="save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check its permissions") from error


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises `DataError` with the line of what is malformed."""
    return _parse_json(read_text(path), path, first_line=1)


def read_file(path: Path) -> list[Record]:
    """Return the records of a local file. Raises `DataError` when it is missing or malformed."""
    require_file(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"cannot tell the format of a data file that ends in {path.suffix or path.name!r}",
            where=str(path),
            remedy=f"name a file that ends in one of {', '.join(LOCAL_DATA_SUFFIXES)}",
        )
    return reader(path)


def _read_local(data: DataConfig, base_dir: Path) -> Source:
    path = resolve_path(data.source, base_dir)
    records = read_file(path)
    origin = {"source": data.source, "resolved": str(path), "sha256": file_sha256(path)}
    return Source(records=records, where=str(path), origin=origin)


def _read_json_file(path: Path) -> list[Record]:
    value = read_json(path)
    if isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
        return [{"id": key, **item} for key, item in value.items()]
    if isinstance(value, dict) and isinstance(value.get("examples"), list):
        value = value["examples"]  # a task of BIG-bench, with its description around it
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, list):
        raise DataError(
            f"holds {type(value).__name__}, not records",
            where=str(path),
            remedy="a .json data file is a list of objects, or an object of objects by id",
        )
    return [_require_object(item, f"{path}, item {index}") for index, item in enumerate(value)]


def _read_jsonl(path: Path) -> list[Record]:
    # Not splitlines(): JSON strings may hold U+2028 and its like, which that would split at.
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [
        _require_object(_parse_json(line, path, first_line=number), f"{path}:{number}")
        for number, line in lines
        if line.strip()
    ]


def _read_csv(path: Path) -> list[Record]:
    return read_rows(_text_as_it_is(path), path)


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records: list[Record] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise DataError(
            f"not a readable Parquet file: {str(error)[:_NAMED_IN_MESSAGES]}",
            where=str(path),
            remedy="fetch or write the file again",
        ) from error
    return records


_READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".json": _read_json_file,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def _parse_json(text: str, path: Path, *, first_line: int) -> Any:
    try:
        return parse_json(text, object_pairs_hook=_without_duplicates)
    except JsonError as error:
        raise DataError(
            f"malformed JSON: {error} at column {error.column}",
            where=f"{path}:{first_line + error.line - 1}",
            remedy="correct that line; a .jsonl file holds one whole object a line",
        ) from error
    except _DuplicateKeyError as error:
        raise DataError(
            f"key {error.key!r} is there twice in one object", where=str(path), remedy="keep one"
        ) from error


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing what `json` would quietly lose: the first of two equal keys."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(counts.most_common(1)[0][0])
    return value


def _require_object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(
            f"a record must be a JSON object, not {type(value).__name__}", where=where, remedy="fix or remove it"
        )
    return value


def _read_hub(data: DataConfig) -> Source:
    import datasets

    with hub_failures(data), without_retries():
        table = datasets.load_dataset(data.source, data.subset, split=data.split, revision=data.revision)
    origin = {
        "source": data.source,
        "resolved": f"hub:{data.source}",
        "subset": data.subset,
        "split": data.split,
        "revision": _resolved_revision(table) or data.revision,
    }
    return Source(records=list(table), where=_name(data), origin=origin)


def _name(data: DataConfig) -> str:
    return f"{data.source}, {data.subset or 'default'}, split {data.split}"


@contextmanager
def hub_failures(data: DataConfig) -> Iterator[None]:
    """Raise what `datasets` raises for a data set of the hub as `DataError`, or as `OfflineError` without a hub."""
    import datasets

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        kind = OfflineError if isinstance(error, ConnectionError) and not hub_answers() else DataError
        raise kind(
            f"cannot be loaded from the hub: {first_line(error)[:_NAMED_IN_MESSAGES]}",
            where=_name(data),
            remedy=_hub_remedy(error),
        ) from error


def _hub_remedy(error: BaseException) -> str:
    text = str(error).lower()
    if "gated" in text or "401" in text or "403" in text:
        return "ask for access on the data set's page, then run hf auth login"
    if isinstance(error, ConnectionError) or "offline" in text:
        return (
            "on a machine with network run moe-ray data prepare, copy the file here, and name it in data.source "
            "(./FILE.jsonl)"
        )
    return "check data.source, data.subset, data.split and data.revision; or name a local file (./FILE.jsonl)"


def _resolved_revision(table: Any) -> str | None:
    """Return the commit that the hub served, which `datasets` keeps only in the addresses of the files it read."""
    for address in table.info.download_checksums or {}:
        _, at, rest = str(address).partition("@")
        if at and "/" in rest:
            return rest.split("/", 1)[0]
    return None
