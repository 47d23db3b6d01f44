"""A run directory: settings, answers and results of one experiment.

config.yaml            the resolved experiment
manifest.json          identities, versions, hardware, prompts, sessions
examples/DOMAIN.jsonl  the examples, so that scoring and report need no data set
sessions/*.json        one file per session of a process that shared the run; the manifest has them too
answers/*.parquet      one row per cell; a file per shard, written whole, and merged when there are many
scores/scores.parquet  the graders' scores; recomputed from answers at any time
telemetry/*.json       one file per replica
routers/*/             routers that were trained here
routes.parquet         where the router sent each example
summary.json           every metric per system and domain
report.html            the report
"""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from moe_ray.characters import whole_characters
from moe_ray.domains.example import Example
from moe_ray.errors import RunDirectoryError, first_line
from moe_ray.files import StoredRecord, open_regular, read_bytes, write_atomically, write_text_atomically
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.store.answers import (
    Answer,
    AnswerFiles,
    from_table,
    list_answer_files,
    merge_small_files,
    read_files,
    to_table,
)
from moe_ray.store.inside import files_inside, inside, require_tree_inside
from moe_ray.store.records import Manifest, ReplicaTelemetry, SessionRecord
from moe_ray.store.routes import Routes, routes_of_table, routes_to_table

RecordT = TypeVar("RecordT", bound=StoredRecord)
ResultT = TypeVar("ResultT")
# Another process that merges files while they are read here is done with it sooner than this.
MAX_READS = 20
_EXAMPLE = TypeAdapter(Example)
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM})


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a disk that is full or fails into a `RunDirectoryError` for `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise RunDirectoryError(
            f"cannot write: {error.strerror}",
            where=str(error.filename or path),
            remedy="free disk space, raise the quota or grant write permission, then run the same command again: "
            "what is there is kept",
        ) from error


class RunDirectory:
    """Reads and writes one run directory. Every file appears whole or not at all.

    It may come from another user: a path that leads out of it raises `RunDirectoryError` (`moe_ray.store.inside`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._committed: dict[str, int] = {}

    @property
    def config_path(self) -> Path:
        return inside(self.path, "config.yaml")

    @property
    def scores_path(self) -> Path:
        return inside(self.path, "scores", "scores.parquet")

    @property
    def summary_path(self) -> Path:
        return inside(self.path, "summary.json")

    @property
    def report_path(self) -> Path:
        return inside(self.path, "report.html")

    @property
    def manifest_path(self) -> Path:
        return inside(self.path, "manifest.json")

    @property
    def routers_path(self) -> Path:
        return inside(self.path, "routers")

    def router_path(self, place: str) -> Path:
        """Return the directory of a router of this run, all of which lies in the run directory."""
        path = inside(self.path, place)
        if path.is_dir():
            require_tree_inside(self.path, path)
        return path

    @property
    def routes_path(self) -> Path:
        return inside(self.path, "routes.parquet")

    @property
    def exists(self) -> bool:
        """True if a run was started here."""
        return self.manifest_path.is_file()

    def prepare(self) -> None:
        """Make the directory and prove that it can be written; raises `RunDirectoryError` otherwise."""
        try:
            for part in ("examples", "answers", "scores", "telemetry"):
                inside(self.path, part).mkdir(parents=True, exist_ok=True)
            probe = inside(self.path, ".writable")
            write_text_atomically(probe, "")
            probe.unlink(missing_ok=True)  # another process may have done so
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write here: {error.strerror or error}",
                where=str(self.path),
                remedy="choose another place with --results-dir, or free disk space and permissions",
            ) from error

    def write_config(self, text: str) -> None:
        """Keep the resolved experiment, as YAML."""
        write_text_atomically(self.config_path, text)

    def write_manifest(self, manifest: Manifest) -> None:
        write_text_atomically(self.manifest_path, manifest.model_dump_json(indent=2) + "\n")

    def write_session(self, session: SessionRecord) -> None:
        """Keep a session of a process that shares the run with others, which write the manifest too."""
        path = inside(self.path, "sessions", f"{session.session}.json")
        write_text_atomically(path, session.model_dump_json(indent=2) + "\n")

    def manifest(self) -> Manifest:
        """Read the manifest; raises `RunDirectoryError` when there is none, or none that can be read."""
        if not self.exists:
            raise RunDirectoryError(
                "no run here: manifest.json is missing",
                where=str(self.path),
                remedy="name the directory that holds manifest.json, usually results/NAME",
            )
        manifest = _read_record(self.manifest_path, Manifest)
        records = [_read_record(path, SessionRecord) for path in files_inside(self.path, "sessions", ".json")]
        own = {record.session: record for record in sorted(records, key=lambda record: record.started_at)}
        manifest.sessions = [own.pop(session.session, session) for session in manifest.sessions] + list(own.values())
        return manifest

    def write_examples(self, domain: str, examples: Iterable[Example]) -> None:
        """Keep a domain's examples, one JSON object a line."""
        lines = (whole_characters(json.dumps(asdict(example), ensure_ascii=False)) + "\n" for example in examples)
        write_atomically(self._examples_path(domain), lambda temporary: _write_lines(temporary, lines))

    def examples(self, domain: str) -> list[Example]:
        """Read a domain's examples back."""
        return list(self.each_example(domain))

    def each_example(self, domain: str) -> Iterator[Example]:
        """Read a domain's examples back, one at a time."""
        path = self._examples_path(domain)
        if not path.is_file():
            raise RunDirectoryError(
                f"no examples of domain {domain}",
                where=str(path),
                remedy="run moe-ray evaluate again to finish the run",
            )
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _example_of_json(line, f"{path}:{number}", domain)

    def _examples_path(self, domain: str) -> Path:
        return inside(self.path, "examples", f"{domain}.jsonl")

    def write_shard(self, answers: Sequence[Answer]) -> Path:
        """Commit a shard's answers, all of them or none."""
        return self.write_shard_table(to_table(list(answers)))

    def write_shard_table(self, table: pa.Table) -> Path:
        """Commit a shard's answers, rows of `ANSWER_SCHEMA`, all of them or none.

        The file is named by its cells, so that a shard that was run twice is written over itself and no cell
        is ever there twice.
        """
        name = fingerprint(sorted(table["key"].to_pylist()))
        path = self._answers_path / f"{name}.parquet"
        write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
        self._committed[name] = table.num_rows
        return path

    @property
    def num_committed(self) -> int:
        """Cells that were committed through this object."""
        return sum(self._committed.values())

    @property
    def _answers_path(self) -> Path:
        return inside(self.path, "answers")

    def answers_table(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """Return the committed answers as one table: some of their columns or all, the rows that `where` tells or all.

        Their order is that of their files, which says nothing.
        """
        return self._read_answers(lambda files: read_files(files.current, columns, where))

    def _read_answers(self, read: Callable[[AnswerFiles], ResultT]) -> ResultT:
        """Return what `read` makes of the answer files; again when another process merged them meanwhile."""
        for _ in range(MAX_READS):
            try:
                return read(self._answer_files())
            except FileNotFoundError as error:
                gone = error
            except (pa.ArrowInvalid, OSError, LookupError, ValueError) as error:
                raise self._unreadable(error) from error
        raise self._unreadable(gone) from gone

    def _answer_files(self) -> AnswerFiles:
        return list_answer_files(files_inside(self.path, "answers", ".parquet"))

    def _unreadable(self, error: Exception) -> RunDirectoryError:
        return RunDirectoryError(
            f"an answer file cannot be read: {error}",
            where=str(self._answers_path),
            remedy="delete that file; moe-ray evaluate computes its cells again",
        )

    def merge_answers(self) -> None:
        """Merge the answer files when there are many small ones. The process must hold the run directory."""
        try:
            self._answer_files()
            merge_small_files(self._answers_path)
        except (pa.ArrowInvalid, OSError, LookupError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            raise self._unreadable(error) from error

    def answers(self) -> list[Answer]:
        """Return all committed answers."""
        return from_table(self.answers_table())

    def done_keys(self) -> frozenset[str]:
        """Return the keys of the cells that are committed."""
        return frozenset(self.answers_table(["key"]).column("key").to_pylist())

    def write_routes(self, routes: Routes) -> None:
        """Keep where the router sent each example."""
        table = routes_to_table(routes)
        write_atomically(self.routes_path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))

    def routes(self) -> Routes | None:
        """Read the routes back; None when no router was asked. Raises `RunDirectoryError` for a damaged file."""
        if not os.path.lexists(self.routes_path):
            return None
        try:
            with open_regular(self.routes_path) as file:
                return routes_of_table(pq.read_table(file))
        except (pa.ArrowInvalid, OSError, LookupError, TypeError, ValueError) as error:
            raise RunDirectoryError(
                f"cannot be read: {first_line(error)}",
                where=str(self.routes_path),
                remedy="delete it; moe-ray evaluate asks the router again",
            ) from error

    def files_fingerprint(self) -> str:
        """Return a fingerprint of the examples, the routes and the answers that are there.

        A shard is named by its cells; merging files does not change the fingerprint.
        """
        files = files_inside(self.path, "examples", ".jsonl")
        files += [self.routes_path] if self.routes_path.is_file() else []
        contents = {path.name: file_sha256(path) for path in files}
        return fingerprint({"examples": contents, "answers": self._read_answers(lambda files: files.parts)})

    @property
    def graded(self) -> str | None:
        """The fingerprint that `mark_graded` stored; None if the answers were not graded."""
        path = inside(self.path, "scores", "graded.txt")
        return path.read_text(encoding="utf-8") if path.is_file() and self.scores_path.is_file() else None

    def mark_graded(self, made_from: str) -> None:
        """Note what the scores were made from, once they are written."""
        write_text_atomically(inside(self.path, "scores", "graded.txt"), made_from)

    @property
    def reported(self) -> str | None:
        """What a process that shared the run noted of the report that is there; None without a note."""
        path = inside(self.path, "scores", "reported.txt")
        return path.read_text(encoding="utf-8") if path.is_file() and self.summary_path.is_file() else None

    def mark_reported(self, made_from: str) -> None:
        """Note what the report was made from, once it is written."""
        write_text_atomically(inside(self.path, "scores", "reported.txt"), made_from)

    def write_telemetry(self, record: ReplicaTelemetry) -> None:
        write_text_atomically(
            inside(self.path, "telemetry", f"{record.replica}.json"), record.model_dump_json(indent=2) + "\n"
        )

    def telemetry(self) -> list[ReplicaTelemetry]:
        """Return the telemetry of every replica of every session, oldest first."""
        paths = files_inside(self.path, "telemetry", ".json")
        return sorted((_read_record(path, ReplicaTelemetry) for path in paths), key=lambda record: record.started_at)


def _read_record(path: Path, kind: type[RecordT]) -> RecordT:
    try:
        return kind.model_validate_json(read_bytes(path))
    except (ValidationError, OSError) as error:
        raise RunDirectoryError(
            f"cannot be read: {first_line(error)}",
            where=str(path),
            remedy="it is half-written, damaged or of another version of moe_ray; restore or delete it and run again",
        ) from error


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines)


def _example_of_json(line: bytes, where: str, domain: str) -> Example:
    try:
        example = _EXAMPLE.validate_json(line)
    except ValidationError as error:
        raise _damaged_example(where, first_line(error)) from error
    if example.domain != domain:
        raise _damaged_example(where, f"an example of domain {example.domain!r}")
    return example


def _damaged_example(where: str, what: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"not an example: {what}", where=where, remedy="run moe-ray evaluate again: it writes the examples again"
    )
