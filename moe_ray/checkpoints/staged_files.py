"""The files of a checkpoint that a copy on a node's own disk needs, and the copying of one of them."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from moe_ray.checkpoints.files import INDEX_FILE, SINGLE_FILE
from moe_ray.errors import MoeRayError
from moe_ray.files import open_regular

MAX_FILES = 10_000
COPY_BYTES = 16 << 20
TEMPLATES_FOLDER = "additional_chat_templates"
# Beside safetensors, transformers reads none of these.
_UNUSED = re.compile(
    r"pytorch_model.*\.bin(\.index\.json)?|(tf|flax)_model.*|.*\.(gguf|onnx|pth|h5|msgpack|ot|ckpt)"
    r"|(optimizer|scheduler|rng_state).*\.(pt|bin)|training_args\.bin"
)
_PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


class NotStagedError(MoeRayError):
    """A checkpoint is not copied to the node's disk. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file of a checkpoint: its name below the checkpoint's folder, where its bytes are, and its state.

    `changed_ns` holds the times of the last change of its content and of its inode. The second cannot be set by
    programs, so that a file that another one of the same size and time replaces is noticed.
    """

    name: str
    place: Path
    num_bytes: int
    changed_ns: tuple[int, int]


def checkpoint_files(source: Path, root: Path, *, everything: bool) -> list[SourceFile]:
    """Return the files of the checkpoint `source`, a folder or a single file, sorted by name.

    Without `everything` they are those that transformers may read; else the whole tree. Raises `NotStagedError` for a
    checkpoint with links that lead out of `root`, links to folders, or what is neither a file nor a folder.
    """
    top = source.parent if source.is_file() else source
    found = _parts(source) if source.is_file() else _walk(source, source, everything=everything)
    paths = list(islice(found, MAX_FILES + 1))
    if len(paths) > MAX_FILES:
        raise NotStagedError(f"{source} holds more than {MAX_FILES} files")
    names = {path.name for path in paths if path.parent == top}
    if not everything and names & {SINGLE_FILE, INDEX_FILE}:
        paths = [path for path in paths if not _UNUSED.fullmatch(path.name)]
    return sorted((_source_file(path, top, root) for path in paths), key=lambda file: file.name)


def _parts(file: Path) -> list[Path]:
    """A file alone, or all parts of a GGUF that is split."""
    part = _PART.fullmatch(file.name)
    if part is None:
        return [file]
    pattern = re.compile(rf"{re.escape(part['stem'])}-\d{{5}}-of-{part['count']}\.gguf")
    return [path for path in file.parent.iterdir() if pattern.fullmatch(path.name)]


def _walk(folder: Path, top: Path, *, everything: bool) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield Path(entry.path)
            elif everything or (folder == top and entry.name == TEMPLATES_FOLDER):
                if entry.is_symlink():
                    raise NotStagedError(f"{entry.path} is a link to a folder")
                yield from _walk(Path(entry.path), top, everything=everything)


def _source_file(path: Path, top: Path, root: Path) -> SourceFile:
    try:
        place = path.resolve(strict=True)
        status = place.lstat()
    except (OSError, RuntimeError) as error:
        raise NotStagedError(f"{path} cannot be read: {error}") from error
    if not place.is_relative_to(root):
        raise NotStagedError(f"{path} is a link that leads out of {root}")
    if not stat.S_ISREG(status.st_mode):
        raise NotStagedError(f"{path} is neither a file nor a folder")
    return SourceFile(
        name=path.relative_to(top).as_posix(),
        place=place,
        num_bytes=status.st_size,
        changed_ns=(status.st_mtime_ns, status.st_ctime_ns),
    )


def copy_file(file: SourceFile, target: Path, incoming: Path) -> None:
    """Copy `file` to `incoming`, make it durable, and rename it to `target`: what is there is whole.

    Raises `NotStagedError` when the file changes meanwhile, and `OSError` of either disk.
    """
    with open_regular(file.place) as source, incoming.open("wb") as copy:
        _require_unchanged(file, source)
        shutil.copyfileobj(source, copy, COPY_BYTES)
        copy.flush()
        os.fsync(copy.fileno())
        _require_unchanged(file, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming.replace(target)


def _require_unchanged(file: SourceFile, opened: BinaryIO) -> None:
    status = os.fstat(opened.fileno())
    if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (file.num_bytes, *file.changed_ns):
        raise NotStagedError(f"{file.place} changed while it was copied")
