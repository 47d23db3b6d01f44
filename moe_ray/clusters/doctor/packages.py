"""Checks of the installed packages and of the commands that belong to them."""

from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import Machine

NEEDED = {"ray": (2, 50), "torch": (2, 6), "transformers": (5, 23)}
ONCE_ONLY = ("ray", "torch", "transformers", "numpy", "pydantic", "pyarrow")


@check("packages", "failure")
def packages(machine: Machine) -> Iterator[Fault]:
    """A package that runs need is missing or too old.

    Commands that only read results work without ray and torch; a run does not.
    """
    for name, least in NEEDED.items():
        found = _distribution(machine, name)
        wanted = ".".join(map(str, least))
        if found is None:
            yield Fault(
                f"{name} is not installed",
                f"not found by the Python in {machine.prefix}",
                f"{machine.prefix}/bin/python -m pip install '{name}>={wanted}'",
            )
        elif _numbers(found.version) < least:
            yield Fault(
                f"{name} is older than {wanted}",
                f"version {found.version}",
                f"{machine.prefix}/bin/python -m pip install --upgrade '{name}>={wanted}'",
            )


@check("ray-command", "warning")
def ray_command(machine: Machine) -> Iterator[Fault]:
    """The command `ray` on PATH belongs to another Python.

    `ray start` would start a cluster with another version of Ray or Python than a run uses; the two refuse each other.
    """
    command = machine.which("ray")
    interpreter = _interpreter(command) if command is not None else None
    if interpreter is not None and interpreter.parent.parent.resolve() != machine.prefix.resolve():
        yield Fault(
            "the command `ray` on PATH belongs to another Python than moe-ray",
            f"{command} starts {interpreter}; moe-ray runs in {machine.prefix}",
            f'export PATH="{machine.prefix}/bin:$PATH"',
        )


@check("import-path", "warning")
def import_path(machine: Machine) -> Iterator[Fault]:
    """A package is installed twice.

    PYTHONPATH and ~/.local put packages before those of the environment, also inside a container. Which copy is used
    then depends on how a process was started, and Ray's workers may use the other one.
    """
    for name in ONCE_ONLY:
        places = [str(Path(entry).resolve()) for entry in machine.import_path if entry and _holds(entry, name)]
        if len(distinct := list(dict.fromkeys(places))) > 1:
            yield Fault(
                f"{name} is on the import path twice",
                f"{distinct[0]} hides the one in {distinct[1]}",
                "export PYTHONNOUSERSITE=1; unset PYTHONPATH",
            )
            return


def _holds(folder: str, name: str) -> bool:
    """Say whether `folder` has the package; one of the same name without an __init__ does not count."""
    spec = PathFinder.find_spec(name, [folder])
    return spec is not None and spec.origin is not None


def _distribution(machine: Machine, name: str) -> Distribution | None:
    return next(iter(distributions(name=name, path=list(machine.import_path))), None)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


def _interpreter(command: Path) -> Path | None:
    """Return the interpreter that a script names in its first line."""
    try:
        with command.open("rb") as file:
            line = file.readline(4096)
    except OSError:
        return None
    text = line.decode("utf-8", errors="replace").strip()
    words = text.removeprefix("#!").split()
    return Path(words[0]) if text.startswith("#!") and words and "python" in Path(words[0]).name else None


def installed_version(machine: Machine, name: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    found = _distribution(machine, name)
    return None if found is None else found.version
