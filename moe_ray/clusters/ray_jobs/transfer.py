"""Copying a run directory from a cluster through its Jobs API alone: small jobs print files into their logs.

For clusters whose disks this machine does not see. It takes a few seconds for each 32 MiB.
"""

import base64
import binascii
import secrets
import shlex
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import moe_ray
from moe_ray.clusters.ray_jobs.access import require_python
from moe_ray.clusters.ray_jobs.client import JobMissingError, JobsClient, JobsUnreachableError
from moe_ray.clusters.ray_jobs.package import Package, package_name
from moe_ray.clusters.ray_jobs.results import all_files, fetch, is_here
from moe_ray.clusters.ray_jobs.send import MARK, PIECES, FilePiece, SentFile
from moe_ray.clusters.submission import Submission
from moe_ray.errors import UserError, first_line
from moe_ray.files import parse_json, write_atomically
from moe_ray.fingerprint import file_sha256
from moe_ray.store.inside import inside
from moe_ray.store.mirror import is_small, require_plain

SENDER = "moe_ray.clusters.ray_jobs.send"
PIECES_FILE = "pieces.json"
PIECE_BYTES = 4 << 20
BATCH_BYTES = 32 << 20
POLL_S = 0.5
TIMEOUT_S = 300.0


def bring(
    client: JobsClient, submission: Submission, run: Path, *, small_only: bool, on_progress: Callable[[str], object]
) -> int:
    """Copy a job's run directory, or its small results, to `run`; return the number of files that were copied.

    From the mirror or the shared folder if this machine sees it, else through jobs. Resumable. Raises `UserError`.
    """
    place = submission.details["results"]
    if is_here(place, submission.id):
        return fetch(run, place, submission.id, small_only=small_only, on_progress=on_progress)
    return fetch_by_jobs(client, submission, run, wanted=is_small if small_only else all_files, on_progress=on_progress)


def fetch_by_jobs(
    client: JobsClient,
    submission: Submission,
    run: Path,
    *,
    wanted: Callable[[str, int], bool],
    on_progress: Callable[[str], object],
) -> int:
    """Copy the files of a job's run directory to `run`, small results first; return the number that were copied.

    A file appears when it is whole and has the hash that it has on the cluster; one that was cut off is continued.
    Raises `UserError` where the cluster's folder is not the one that the job wrote, or the cluster does not answer.
    """
    try:
        files = [SentFile.model_validate(parse_json(line)) for line in _printed(client, submission, [])]
        if not files:
            raise JobsUnreachableError("the job printed no list of files")
        for file in files:
            require_plain(file.path, submission.target)
        missing = [file for file in files if wanted(file.path, file.size_bytes) and not _is_there(run, file)]
        missing.sort(key=lambda file: (not is_small(file.path, file.size_bytes), file.size_bytes))
        by_path = {file.path: file for file in missing}
        for batch in _batches(piece for file in missing for piece in _pieces(run, file)):
            for piece, line in zip(batch, _printed(client, submission, batch), strict=True):
                if _append(run, by_path[piece.path], piece, line):
                    on_progress(piece.path)
    except (JobsUnreachableError, JobMissingError, ValueError, binascii.Error, zlib.error) as error:
        raise UserError(
            f"the results did not come through: {first_line(error)}",
            where=submission.details["results"],
            remedy=f"moe-ray sync {run} continues",
        ) from error
    return len(missing)


def _printed(client: JobsClient, submission: Submission, pieces: Sequence[FilePiece]) -> list[str]:
    """Run the sender as a job, and return the lines that it printed for us."""
    python = require_python(submission.details["python"])
    package = Package()
    package.add(Path(moe_ray.__file__).parent, "moe_ray")
    package.add_text(PIECES_FILE, PIECES.dump_json(list(pieces)).decode())
    archive = package.archive()
    client.upload(package_name(archive), archive)
    id = f"{submission.id}-results-{secrets.token_hex(4)}"
    arguments = [SENDER, submission.details["results"], submission.id, PIECES_FILE]
    entrypoint = shlex.join([python, "-m", *arguments])
    client.submit(
        id=id, entrypoint=entrypoint, runtime_env={"working_dir": f"gcs://{package_name(archive)}"}, metadata={}
    )
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (info := client.info(id)).has_ended:
        if time.monotonic() > deadline_s:
            raise JobsUnreachableError(f"job {id} is {info.state.lower()} for {TIMEOUT_S:g} s")
        time.sleep(POLL_S)
    lines = client.logs(id).splitlines()
    if info.exit_code:
        raise JobsUnreachableError(lines[-1] if lines else info.message)
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]


def _is_there(run: Path, file: SentFile) -> bool:
    path = inside(run, file.path)
    return path.is_file() and path.stat().st_size == file.size_bytes and file_sha256(path) == file.sha256


def _part(run: Path, file: SentFile) -> Path:
    """Where the bytes of a file are gathered. Its name holds the hash: parts of another state are not continued."""
    path = inside(run, file.path)
    return path.with_name(f".{path.name}.{file.sha256[:16]}.part")


def _pieces(run: Path, file: SentFile) -> Iterator[FilePiece]:
    """Yield what is missing of a file: all of it, or what comes after the part that is here; at least one piece."""
    part = _part(run, file)
    start = part.stat().st_size if part.is_file() else 0
    for offset in range(start, max(file.size_bytes, start + 1), PIECE_BYTES):
        yield FilePiece(path=file.path, offset=offset, size_bytes=min(PIECE_BYTES, file.size_bytes - offset))


def _batches(pieces: Iterator[FilePiece]) -> Iterator[list[FilePiece]]:
    """Group pieces, in their order, into what one job prints."""
    batch: list[FilePiece] = []
    for piece in pieces:
        if batch and sum(one.size_bytes for one in batch) + piece.size_bytes > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _append(run: Path, file: SentFile, piece: FilePiece, line: str) -> bool:
    """Add a piece to its file's part; say whether the file is whole now, and in its place."""
    content = zlib.decompress(base64.b64decode(parse_json(line), validate=True))
    part = _part(run, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as out:
        out.truncate(piece.offset)
        out.write(content)
    if len(content) != piece.size_bytes:
        raise JobsUnreachableError(f"{file.path} changed while it was copied")
    if piece.offset + piece.size_bytes < file.size_bytes:
        return False
    if file_sha256(part) != file.sha256:
        part.unlink()
        raise JobsUnreachableError(f"{file.path} changed while it was copied")
    write_atomically(inside(run, file.path), part.replace)
    return True
