"""Print files of a run directory into a job's log: `python -m moe_ray.clusters.ray_jobs.send RUN ID PIECES`.

The Jobs API has no download. A small job prints what `moe_ray.clusters.ray_jobs.transfer` asks for, in lines that begin
with `MARK`: without pieces the list of files, else each piece's bytes, compressed and in base64.
"""

import base64
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from moe_ray.clusters.ray_jobs.results import require_mark
from moe_ray.errors import UserError
from moe_ray.files import StoredRecord, open_regular
from moe_ray.fingerprint import file_sha256
from moe_ray.store.inside import inside
from moe_ray.store.mirror import mirrored_paths

MARK = "moe-ray-results:"
EXIT_USAGE = 2


class SentFile(StoredRecord):
    """A file of the run directory on the cluster."""

    path: str
    size_bytes: int
    sha256: str


class FilePiece(StoredRecord):
    """A part of a file."""

    path: str
    offset: int
    size_bytes: int


PIECES: TypeAdapter[list[FilePiece]] = TypeAdapter(list[FilePiece])


def main(arguments: Sequence[str]) -> int:
    """Print the pieces that the file of the third argument lists, or all files' names, sizes and hashes."""
    run, id, pieces_path = Path(arguments[0]), arguments[1], Path(arguments[2])
    try:
        require_mark(run, id)
        pieces = PIECES.validate_json(pieces_path.read_bytes())
        for line in _bytes_of(run, pieces) if pieces else _files_of(run):
            sys.stdout.write(f"{MARK}{line}\n")
    except (UserError, OSError) as error:
        sys.stdout.write(f"error: {error}\n")
        return EXIT_USAGE
    return 0


def _files_of(run: Path) -> Iterator[str]:
    for path in mirrored_paths(run):
        file = SentFile(path=path.as_posix(), size_bytes=(run / path).stat().st_size, sha256=file_sha256(run / path))
        yield file.model_dump_json()


def _bytes_of(run: Path, pieces: Sequence[FilePiece]) -> Iterator[str]:
    for piece in pieces:
        with open_regular(inside(run, piece.path)) as file:
            file.seek(piece.offset)
            content = file.read(piece.size_bytes)
        yield json.dumps(base64.b64encode(zlib.compress(content, 1)).decode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
