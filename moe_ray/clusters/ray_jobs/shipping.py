"""What of a command is sent to a cluster: its files, resolved, and the code that they name.

Local paths that exist on this machine are packed, and the command names them by their place in the package. All others
stay as they are: they must exist on the nodes.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

import moe_ray
from moe_ray.clusters.job_commands import RUN_WORD, CommandWord, JobCommand
from moe_ray.clusters.ray_jobs.package import Package
from moe_ray.clusters.ray_jobs.packed_files import pack_experiment, pack_gate, pack_graders, pack_pretraining
from moe_ray.clusters.ray_jobs.packed_paths import EXPERIMENT_FILE, PACKAGE_FOLDER, PackedPaths, absolute
from moe_ray.config.schema import is_local_path
from moe_ray.errors import UserError
from moe_ray.specialisation.texts import EXPERIMENT_SUFFIXES


class Shipment(NamedTuple):
    """A package, the paths that are expected on the nodes, and the command with the paths of the package."""

    package: Package
    on_cluster: tuple[str, ...]
    command: tuple[str, ...]


def shipment(job: JobCommand, *, include: Sequence[Path], on_cluster: Sequence[Path]) -> Shipment:
    """Collect all that a command needs from this machine.

    Args:
        include: further files and folders; they keep their place relative to the experiment's folder.
        on_cluster: folders whose paths mean the cluster's disks, though they may exist here too.

    Raises `UserError` for a file that cannot be sent, and for a package over the limit.
    """
    package = Package()
    base_dir = Path.cwd() if job.experiment is None else job.experiment.base_dir
    shipping = _Shipping(job, PackedPaths(package, base_dir, [absolute(path) for path in on_cluster]))
    command = [*job.name]
    for word in job.words:
        if word.parameter not in job.overriding:
            command += shipping.word(word)
    package.add(Path(moe_ray.__file__).parent, PACKAGE_FOLDER)
    for extra in include:
        shipping.paths.pack(absolute(extra))
    package.require_size()
    return Shipment(package, tuple(shipping.paths.left), tuple(command))


class _Shipping:
    """Packs what the words of a command name."""

    def __init__(self, job: JobCommand, paths: PackedPaths) -> None:
        self._job, self.paths = job, paths

    def word(self, word: CommandWord) -> list[str]:
        """Return a word as the cluster needs it."""
        if word.value is None or word.role in (None, "earlier"):
            return word.plain
        where = word.option or word.parameter
        file = absolute(Path(word.value))
        match word.role:
            case "out":
                return [word.option or "", f"{RUN_WORD}/{file.name}"]
            case "run":
                return [RUN_WORD]
            case "named":
                name, path = word.named
                return word.spelled(f"{name}{self.paths.given(path, where)}")
            case "experiment":
                return [self._experiment()]
            case "pretraining":
                return word.spelled(pack_pretraining(file, self.paths))
            case "gate":
                return word.spelled(pack_gate(file, self.paths))
            case "graders":
                return word.spelled(self._graders(file))
            case "texts" if file.suffix in EXPERIMENT_SUFFIXES:
                return word.spelled(self._graders(file))
            case "model" if not file.exists() and not is_local_path(word.value):
                return word.plain
            case _:
                return word.spelled(self.paths.given(word.value, where))

    def _experiment(self) -> str:
        assert self._job.experiment is not None
        values = pack_experiment(self._job.experiment, self.paths, EXPERIMENT_FILE)
        self._code(values, self._job.experiment.base_dir)
        return EXPERIMENT_FILE

    def _graders(self, file: Path) -> str:
        path, values = pack_graders(file, self.paths)
        self._code(values, file.parent)
        return path

    def _code(self, values: Mapping[str, Any], base_dir: Path) -> None:
        for source in _code_of(values, base_dir):
            self.paths.package.add(source, source.name)


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
