"""What of an experiment is sent to a cluster: the resolved config, its local files, and the code that it names.

Local paths that exist on this machine are packed, and the config names them by their place in the package. All others
stay as they are: they must exist on the nodes.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import moe_ray
from moe_ray.clusters.ray_jobs.package import Package
from moe_ray.config.dump import CoreDumper
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import UserError
from moe_ray.fingerprint import fingerprint

EXPERIMENT_FILE = "experiment.yaml"
PACKAGE_FOLDER = "moe_ray"
OUTSIDE_FOLDER = "outside"
HASH_CHARACTERS = 8
_WIDTH = 110

Rewrite = Callable[[str], str]


class Shipment(NamedTuple):
    """A package, and the paths that are expected on the nodes."""

    package: Package
    on_cluster: tuple[str, ...]


def shipment(experiment: LoadedExperiment, *, include: Sequence[Path], on_cluster: Sequence[Path]) -> Shipment:
    """Collect all that a job of `experiment` needs from this machine.

    Args:
        include: further files and folders; they keep their place relative to the experiment's folder.
        on_cluster: folders whose paths mean the cluster's disks, though they may exist here too.

    Raises `UserError` for a file that cannot be sent, and for a package over the limit.
    """
    package = Package()
    paths = _Paths(package, experiment.base_dir, [_absolute(path) for path in on_cluster])
    values: dict[str, Any] = experiment.config.model_dump(mode="json")
    _rewrite(values, paths)
    values["runtime"] |= {"address": "auto", "temp_dir": None}
    values["serving"] |= {"api_keys_file": None, "record_dir": None}
    package.add_text(
        EXPERIMENT_FILE, yaml.dump(values, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    )
    package.add(Path(moe_ray.__file__).parent, PACKAGE_FOLDER)
    for source in _code_of(values, experiment.base_dir):
        package.add(source, source.name)
    for extra in include:
        paths.pack(_absolute(extra))
    package.require_size()
    return Shipment(package, tuple(paths.left))


class _Paths:
    """Packs local paths and says what they are called in the package."""

    def __init__(self, package: Package, base_dir: Path, on_cluster: Sequence[Path]) -> None:
        self._package, self._base_dir, self._on_cluster = package, base_dir, on_cluster
        self.left: dict[str, None] = {}

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

    def pack(self, source: Path) -> str:
        """Add a file or folder and return its place: as it lies below the experiment's folder, or in `outside`."""
        if source.is_relative_to(self._base_dir) and source != self._base_dir:
            place = source.relative_to(self._base_dir).as_posix()
        else:
            place = f"{OUTSIDE_FOLDER}/{fingerprint(str(source), num_hex=HASH_CHARACTERS)}-{source.name}"
        if place.partition("/")[0] in (PACKAGE_FOLDER, EXPERIMENT_FILE):
            place = f"{OUTSIDE_FOLDER}/{place}"
        self._package.add(source, place)
        return place


def _absolute(path: Path) -> Path:
    """Join and tidy without following links, as the paths of an experiment are."""
    return Path(os.path.normpath(Path.cwd() / path.expanduser()))


def _rewrite(values: dict[str, Any], paths: _Paths) -> None:
    for model in values["models"].values():
        _change(model, ("path", "tokenizer"), paths.checkpoint_or_data)
        model["engine_settings"] = {name: paths.setting(value) for name, value in model["engine_settings"].items()}
    for domain in values["domains"].values():
        _change(domain["data"], ("source", "ids_file"), paths.checkpoint_or_data)
        domain["graders"] = domain["graders"] and [paths.grader(grader) for grader in domain["graders"]]
    if router := values["router"]:
        _change(router, ("path", "base_model", "tokenizer"), paths.checkpoint_or_data)
        for data in (*router["data"].values(), *router["other"]):
            _change(data, ("source", "ids_file"), paths.checkpoint_or_data)


def _change(values: dict[str, Any], keys: Sequence[str], rewrite: Rewrite) -> None:
    for key in keys:
        if values.get(key) is not None:
            values[key] = rewrite(values[key])


def _code_of(values: Mapping[str, Any], base_dir: Path) -> Iterator[Path]:
    """Yield the files and folders of the modules that the experiment names and that no package manager installed."""
    for top in sorted({name.partition(".")[0] for name in _modules(values)} - {PACKAGE_FOLDER}):
        spec = PathFinder.find_spec(top, [str(base_dir), *sys.path])
        places = (
            [] if spec is None else [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else ())]
        )
        if not places:
            raise UserError(
                f"the experiment names the module {top}, which is not found",
                where=str(base_dir),
                remedy="put it beside the experiment file, or on PYTHONPATH",
            )
        if not _is_installed(Path(places[0])):
            yield Path(places[0])


def _modules(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the module of each `module:Class`. evaluate:NAME is a metric, which has no class."""
    for model in values["models"].values():
        yield from _module(model["engine"])
    for domain in values["domains"].values():
        yield from _module(domain["task"])
        for grader in domain["graders"] or ():
            yield from _module(grader["name"] if isinstance(grader, dict) else grader)


def _module(name: str) -> Iterator[str]:
    module, colon, _ = name.partition(":")
    if colon and module != "evaluate":
        yield module


def _is_installed(origin: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in origin.parts) or origin.is_relative_to(
        Path(os.__file__).parent
    )
