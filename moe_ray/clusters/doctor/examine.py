"""Run all checks of a machine at once, each within a time limit."""

import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import libc_ver, python_version

from moe_ray.clusters.doctor.checks import Fault, MachineCheck, all_checks
from moe_ray.clusters.doctor.machine import Machine, SilentFactError
from moe_ray.clusters.doctor.report import DoctorFinding, NodeReport
from moe_ray.errors import UserError, first_line

SLOW_S = 1.0
COMPARED_PACKAGES = ("moe_ray", "ray", "torch", "transformers")
SECRET_MARKS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "CREDENTIAL")
# Shorter values are flags, and would be found inside of words.
MIN_SECRET_CHARACTERS = 6


@dataclass(slots=True)
class _Run:
    """One check under way, on a thread that dies with the process: a call that hangs in the kernel cannot be ended."""

    check: MachineCheck
    problems: list[Fault] = field(default_factory=list)
    elapsed_s: float | None = None

    def on(self, machine: Machine) -> None:
        before = time.monotonic()
        try:
            self.problems = list(self.check.probe(machine)) if self.check.probe is not None else []
        except SilentFactError:
            self.problems = []
        except Exception as error:  # noqa: BLE001 - one check that breaks must not hide what the others find
            self.problems = [_unchecked(self.check, error)]
        self.elapsed_s = time.monotonic() - before


def examine(machine: Machine, checks: Iterable[MachineCheck] | None = None) -> NodeReport:
    """Run the checks side by side and return what they found within `machine.limit_s`.

    A check that does not end is a finding of its own, and costs that time once.
    """
    clock_s, begin = time.time(), time.monotonic()
    wanted = all_checks() if checks is None else tuple(checks)
    runs = [_Run(each) for each in wanted if each.probe is not None]
    threads = [threading.Thread(target=run.on, args=(machine,), name=run.check.id, daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, begin + machine.limit_s - time.monotonic()))
    hung = [run.check for run in runs if run.elapsed_s is None]
    found = [(run.check, problem) for run in runs if run.elapsed_s is not None for problem in run.problems]
    found += [(each, _hung(each, machine.limit_s)) for each in hung]
    clean = _Cleaner(machine.environment, machine.home)
    return NodeReport(
        node=machine.host,
        clock_s=clock_s,
        elapsed_s=time.monotonic() - begin,
        num_checks=len(wanted),
        findings=tuple(clean.finding(each, problem) for each, problem in _failures_first(found)),
        hung=tuple(each.id for each in hung),
        slow_s={run.check.id: run.elapsed_s for run in runs if (run.elapsed_s or 0.0) > SLOW_S and run.elapsed_s},
        versions=versions_here(machine),
    )


def versions_here(machine: Machine) -> dict[str, str]:
    """Return the versions that are compared between nodes."""
    found = {"python": python_version(), "glibc": libc_ver()[1]}
    driver = re.search(r"\b\d+\.\d+(\.\d+)?\b", machine.read("proc/driver/nvidia/version") or "")
    if driver is not None:
        found["NVIDIA driver"] = driver[0]
    for name in COMPARED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _failures_first(found: list[tuple[MachineCheck, Fault]]) -> list[tuple[MachineCheck, Fault]]:
    return sorted(found, key=lambda pair: (pair[1].severity or pair[0].severity) != "failure")


def _unchecked(each: MachineCheck, error: Exception) -> Fault:
    what = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
    return Fault("this could not be checked", what, f"moe-ray doctor --explain {each.id}", "warning")


def _hung(each: MachineCheck, limit_s: float) -> Fault:
    return Fault(
        f"this check did not end within {limit_s:g} s, so a run would hang here too",
        each.title,
        f"moe-ray doctor --explain {each.id}",
    )


class _Cleaner:
    """Makes findings of problems, without the values of secrets and with a short home folder."""

    def __init__(self, environment: Mapping[str, str], home: Path) -> None:
        self._home = str(home)
        self._secrets = sorted(
            (
                value
                for name, value in environment.items()
                if any(mark in name.upper() for mark in SECRET_MARKS)
                and len(value) >= MIN_SECRET_CHARACTERS
                and not value.startswith(("/", "~", "."))
            ),
            key=len,
            reverse=True,
        )

    def finding(self, each: MachineCheck, problem: Fault) -> DoctorFinding:
        return DoctorFinding(
            check=each.id,
            severity=problem.severity or each.severity,
            what=self._text(problem.what),
            evidence=self._text(problem.evidence),
            command=self._text(problem.command),
        )

    def _text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text.replace(f"{self._home}/", "~/") if len(self._home) > 1 else text
