"""The package of a job: an explicit list of files, its limit, and the archive that Ray unpacks on each node.

Ray would zip a whole folder, leave out what .gitignore names, and fail at 100 MiB with a bare status 413.
"""

import errno
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from moe_ray.errors import UserError
from moe_ray.files import open_regular
from moe_ray.formatting import plural, size

MAX_PACKAGE_BYTES = 90 << 20
MAX_LARGEST = 5
HASH_CHARACTERS = 32
_NEVER_SENT = ("__pycache__",)
_DATE = (1980, 1, 1, 0, 0, 0)


class PackedFile(NamedTuple):
    """A file of this machine, or a text that is made here."""

    source: Path | None
    content: bytes
    size_bytes: int


class Package:
    """Files by their path inside the package. A later file of the same path must be the same."""

    def __init__(self) -> None:
        self._files: dict[str, PackedFile] = {}

    @property
    def files(self) -> Mapping[str, PackedFile]:
        return self._files

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self._files.values())

    @property
    def summary(self) -> str:
        return f"{plural(len(self._files), 'file')}, {size(self.size_bytes)}"

    def add_text(self, path: str, text: str) -> None:
        """Add a file with this content."""
        content = text.encode()
        self._files[path] = PackedFile(source=None, content=content, size_bytes=len(content))

    def add(self, source: Path, path: str) -> None:
        """Add a file, or all files of a folder but hidden ones and caches. Links are replaced by their targets.

        Raises `UserError` for what is missing, unreadable, neither file nor folder, or placed where another file is.
        """
        try:
            for file, place in _files_of(source, path):
                self._add_file(file, place)
        except OSError as error:
            raise UserError(
                f"cannot be sent: {error.strerror or error}",
                where=str(error.filename or source),
                remedy="check the path",
            ) from error

    def _add_file(self, source: Path, path: str) -> None:
        with open_regular(source) as file:
            num_bytes = os.fstat(file.fileno()).st_size
        there = self._files.get(path)
        if there is not None and (there.source is None or not there.source.samefile(source)):
            raise UserError(
                f"has the place of another file of the package: {path}", where=str(source), remedy="rename one of them"
            )
        self._files[path] = PackedFile(source=source, content=b"", size_bytes=num_bytes)

    def require_size(self) -> None:
        """Raise `UserError`, with the largest files, when the package is over the limit."""
        if self.size_bytes <= MAX_PACKAGE_BYTES:
            return
        largest = sorted(self._files.items(), key=lambda entry: -entry[1].size_bytes)[:MAX_LARGEST]
        listed = "".join(f"\n  {size(file.size_bytes):>10}  {file.source or path}" for path, file in largest)
        raise UserError(
            f"the package has {self.summary}, and the limit is {size(MAX_PACKAGE_BYTES)}. The largest files:{listed}",
            remedy="put large files on a disk that all nodes share, name them there in the experiment, and add "
            "--on-cluster FOLDER if that folder exists here too",
        )

    def archive(self) -> bytes:
        """Return the package as a zip archive. The same files give the same bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path, file in sorted(self._files.items()):
                entry = zipfile.ZipInfo(path, date_time=_DATE)
                entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.content if file.source is None else _read(file.source))
        return buffer.getvalue()


def package_name(archive: bytes) -> str:
    """Return the name under which Ray stores a package: it says what the content is."""
    return f"_ray_pkg_{hashlib.sha256(archive).hexdigest()[:HASH_CHARACTERS]}.zip"


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _files_of(source: Path, path: str) -> Iterator[tuple[Path, str]]:
    if not source.is_dir():
        yield source, path
        return
    for folder, folders, names in os.walk(source, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NEVER_SENT)
        for name in folders:
            if (Path(folder) / name).is_symlink():
                raise OSError(errno.ELOOP, "a link to a folder", str(Path(folder) / name))
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(".pyc"):
                file = Path(folder) / name
                yield file, f"{path}/{file.relative_to(source).as_posix()}"


def _raise(error: OSError) -> None:
    raise error
