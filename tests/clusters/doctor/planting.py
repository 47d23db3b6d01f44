"""The registry of faults: functions that spoil a clean machine, each in one place."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from moe_ray.clusters.doctor.machine import Machine
from tests.clusters.doctor.machines import in_slurm, with_environment, with_experiment, write_files

# Given the clean machine, a folder for files, and what ends with the test; returns the spoilt machine.
Plant = Callable[[Machine, Path, ExitStack], Machine]
PLANTS: dict[str, Plant] = {}


def plant(name: str) -> Callable[[Plant], Plant]:
    """Register a fault. The first word of its name is the check that must find it."""

    def register(function: Plant) -> Plant:
        assert name not in PLANTS
        PLANTS[name] = function
        return function

    return register


def by_environment(name: str, **variables: object) -> None:
    plant(name)(lambda machine, folder, stack: with_environment(machine, **variables))


def by_slurm_settings(name: str, **settings: str) -> None:
    plant(name)(lambda machine, folder, stack: in_slurm(machine, settings))


def by_file(name: str, file: str, text: str) -> None:
    """Plant a file of the machine's kernel or of a container."""

    @plant(name)
    def _(machine: Machine, folder: Path, stack: ExitStack) -> Machine:
        write_files(machine.root, {file: text})
        return machine


def by_experiment(name: str, change: Callable[[dict[str, Any], Path], None], **variables: object) -> None:
    plant(name)(lambda machine, folder, stack: with_environment(with_experiment(machine, change), **variables))


def model(**keys: Any) -> Callable[[dict[str, Any], Path], None]:
    return lambda experiment, folder: experiment["models"]["base"].update(keys)
