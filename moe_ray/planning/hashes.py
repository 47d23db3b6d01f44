"""SHA-256 of large files, computed once: a file of the same path, size and modification time is not read again."""

import json
from pathlib import Path

from moe_ray.atomic import write_text_atomically
from moe_ray.config.paths import cache_directory
from moe_ray.fingerprint import file_sha256


class FileHashes:
    """Hashes of files, remembered in `path` between commands by `save`. A lost or damaged memory costs time only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or cache_directory() / "file-hashes.json"
        try:
            self._known: dict[str, list[object]] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of the file's bytes."""
        status = path.stat()
        name = str(path.resolve())
        entry = self._known.get(name)
        if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
            entry = [status.st_size, status.st_mtime_ns, file_sha256(path)]
            self._known[name] = entry
            self._changed = True
        return str(entry[2])

    def save(self) -> None:
        """Write the memory down, if it grew. Where the cache cannot be written, hashes are computed again next time."""
        if self._changed:
            try:
                write_text_atomically(self._path, json.dumps(self._known))
            except OSError:
                return
