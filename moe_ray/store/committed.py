"""The keys of a run's committed answers, while other processes commit more."""

import pyarrow as pa

from moe_ray.errors import RunDirectoryError
from moe_ray.store.answers import read_files
from moe_ray.store.inside import files_inside
from moe_ray.store.run_directory import MAX_READS, RunDirectory


class CommittedKeys:
    """The keys that are known to be committed. A refresh reads the files that are new since the last one alone."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._files: set[str] = set()
        self.keys: set[str] = set()

    def refresh(self) -> set[str]:
        """Read new files, and return the keys that were not known before. Raises `RunDirectoryError` for a bad file."""
        for _ in range(MAX_READS):
            try:
                return self._read()
            except FileNotFoundError as error:  # merged into another file in this moment
                gone: Exception = error
            except (pa.ArrowInvalid, OSError) as error:
                gone = error
                break
        raise RunDirectoryError(
            f"an answer file cannot be read: {gone}",
            where=str(self._run.path / "answers"),
            remedy="delete that file; moe-ray evaluate computes its cells again",
        ) from gone

    def _read(self) -> set[str]:
        files = files_inside(self._run.path, "answers", ".parquet")
        new = [path for path in files if path.name not in self._files]
        keys = set(read_files(new, ["key"]).column("key").to_pylist()) - self.keys
        self._files = {path.name for path in files}
        self.keys |= keys
        return keys
