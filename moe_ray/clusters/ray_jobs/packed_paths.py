"""Local paths that a job needs: packed, and named by their place in the package."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moe_ray.clusters.ray_jobs.package import Package
from moe_ray.errors import UserError
from moe_ray.fingerprint import fingerprint

EXPERIMENT_FILE = "experiment.yaml"
PACKAGE_FOLDER = "moe_ray"
OUTSIDE_FOLDER = "outside"
HASH_CHARACTERS = 8


class PackedPaths:
    """Packs local paths and says what they are called in the package.

    A path below `base_dir` keeps its place in it, below `folder`. Paths that are not on this machine, or that are below
    one of `on_cluster`, stay as they are, and are in `left`: they must exist on the nodes.
    """

    def __init__(self, package: Package, base_dir: Path, on_cluster: Sequence[Path], folder: str = "") -> None:
        self.package = package
        self.left: dict[str, None] = {}
        self._base_dir, self._on_cluster, self._folder = base_dir, on_cluster, folder

    def beside(self, file: Path) -> "PackedPaths":
        """Return the same for paths that a file names; they get a folder of their own, named by `folder_of`."""
        paths = PackedPaths(self.package, file.parent, self._on_cluster, f"{folder_of(file)}/")
        paths.left = self.left
        return paths

    def checkpoint_or_data(self, path: str) -> str:
        """Pack a path if it is local and exists here. A hub id or a name is not absolute."""
        source = Path(path)
        if not source.is_absolute():
            return path
        if not source.exists() or any(source.is_relative_to(folder) for folder in self._on_cluster):
            self.left[path] = None
            return path
        return f"./{self.pack(source)}"

    def setting(self, value: Any) -> Any:
        """Pack a file below the experiment's folder. A setting may also name a program, or a folder to write to."""
        is_own = isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(self._base_dir)
        return self.checkpoint_or_data(value) if is_own and Path(value).is_file() else value

    def grader(self, grader: Any) -> Any:
        """Pack the script of a metric: evaluate:/path/of/script."""
        if isinstance(grader, dict):
            settings = {name: self.setting(value) for name, value in grader["settings"].items()}
            return {**grader, "name": self.grader(grader["name"]), "settings": settings}
        prefix, colon, path = str(grader).partition(":")
        return f"{prefix}:{self.checkpoint_or_data(path)}" if colon and path.startswith("/") else grader

    def given(self, value: str, where: str | None) -> str:
        """Pack a path of the command line. Raises `UserError` for a relative one that is not here."""
        source = absolute(Path(value))
        if not source.exists() and not Path(value).expanduser().is_absolute():
            raise UserError(
                f"there is no {value} here",
                where=where,
                remedy="check the path; a path of the cluster's own disks is absolute",
            )
        return self.checkpoint_or_data(str(source))

    def pack(self, source: Path) -> str:
        """Add a file or folder and return its place: as it lies below the base folder, or in `outside`."""
        if source.is_relative_to(self._base_dir) and source != self._base_dir:
            place = f"{self._folder}{source.relative_to(self._base_dir).as_posix()}"
        else:
            # Under its own name: a data file's name decides how its texts are split.
            place = f"{OUTSIDE_FOLDER}/{fingerprint(str(source), num_hex=HASH_CHARACTERS)}/{source.name}"
        if place.partition("/")[0] in (PACKAGE_FOLDER, EXPERIMENT_FILE):
            place = f"{OUTSIDE_FOLDER}/{place}"
        self.package.add(source, place)
        return place


def folder_of(file: Path) -> str:
    """Return the name that a file of paths has in the package, without its ending, and the folder of its paths."""
    return f"{file.stem}-{fingerprint(str(file), num_hex=HASH_CHARACTERS)}"


def absolute(path: Path) -> Path:
    """Join and tidy without following links, as the paths of an experiment are."""
    return Path(os.path.normpath(Path.cwd() / path.expanduser()))
