"""The registry of checks. A check is a function that looks at a `Machine` and yields the problems that it finds.

The first line of its docstring is its title, the rest its explanation: `moe-ray doctor --explain ID` prints both.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, NamedTuple

from moe_ray.clusters.doctor.machine import Machine
from moe_ray.errors import UserError
from moe_ray.suggestions import choice_of

Severity = Literal["failure", "warning"]
TOPICS = ("limits", "folders", "packages", "ray_setup", "network", "gpus", "slurm", "experiment", "results", "compare")


class Fault(NamedTuple):
    """What is wrong here, how that was seen, and the one command that fixes it or shows more.

    `what` is equal on all nodes with the same problem; what differs between nodes belongs into `evidence`.
    """

    what: str
    evidence: str
    command: str
    severity: Severity | None = None


FaultProbe = Callable[[Machine], Iterator[Fault]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCheck:
    """A check. `probe` is None for one that compares nodes. `severity` is that of its problems, unless they say so."""

    id: str
    severity: Severity
    title: str
    explanation: str
    probe: FaultProbe | None
    topic: str


_CHECKS: dict[str, MachineCheck] = {}


def check(name: str, severity: Severity) -> Callable[[FaultProbe], FaultProbe]:
    """Register a function as the probe of the check `name`."""

    def register(probe: FaultProbe) -> FaultProbe:
        _add(name, severity, inspect.getdoc(probe) or "", probe, probe.__module__.rpartition(".")[2])
        return probe

    return register


def compares_nodes(name: str, severity: Severity, text: str) -> str:
    """Register a check that compares the reports of nodes, with its title and explanation. Returns `name`."""
    _add(name, severity, inspect.cleandoc(text), None, "compare")
    return name


def _add(name: str, severity: Severity, text: str, probe: FaultProbe | None, topic: str) -> None:
    if name in _CHECKS:
        raise ValueError(f"two checks are called {name}")
    title, _, explanation = text.partition("\n\n")
    _CHECKS[name] = MachineCheck(
        id=name, severity=severity, title=title, explanation=explanation, probe=probe, topic=topic
    )


def all_checks() -> tuple[MachineCheck, ...]:
    """Return every check, by topic."""
    for topic in TOPICS:
        import_module(f"{__package__}.{topic}")
    return tuple(sorted(_CHECKS.values(), key=lambda each: TOPICS.index(each.topic)))


def check_called(name: str) -> MachineCheck:
    """Return one check. Raises `UserError` with the nearest name when there is none."""
    known = {each.id: each for each in all_checks()}
    if name not in known:
        raise UserError(f"no check is called {name!r}", where="--explain", remedy=choice_of(name, known))
    return known[name]
