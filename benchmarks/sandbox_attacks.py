"""Every attack on the sandbox in every kind of box that works here, as a table in Markdown.

    python -m benchmarks.sandbox_attacks [--backend filters] [--no-groups] > table.md

As root the table is root's; as an ordinary user, that user's. The attacks on memory run once more, one at a time: a
second table gives the peak of each box, measured from outside, as a share of the limit. An attack from which a box does
not claim to protect is not run there. Exits with 1 when an attack passed, ended otherwise than it may, left something
behind, or took more than 1.1 times the limit.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import machine_line
from benchmarks.sandbox_peaks import Gauge, gauge, measure
from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox import Sandbox
from moe_ray.scoring.sandbox import sandbox as sandbox_module
from moe_ray.scoring.sandbox.program import BackendName
from tests.support.sandbox.attacks import ATTACKS, GROUPS, Attack
from tests.support.sandbox.attacks.attack import LIMIT_BYTES
from tests.support.sandbox.suite import BACKENDS, CONFIG, Findings, claimed, run_attacks

MAX_SHARE = 1.1
ON_MEMORY = tuple(attack for attack in ATTACKS if "memory" in attack.needs)

WORDS = {
    "failed": "wrong answer",
    "error": "refused or crashed",
    "timeout": "stopped: time",
    "memory": "stopped: memory",
    "output_limit": "stopped: output",
    "passed": "**PASSED**",
    "sandbox_failed": "**the sandbox failed**",
}


def no_groups() -> None:
    """Stand in for `open_groups` on a machine where no control group can be made."""


def opened(backend: BackendName) -> Sandbox | None:
    """Return a sandbox of one kind of box; None when it does not work here."""
    try:
        return Sandbox.open(CONFIG, backend=backend)
    except SandboxError as error:
        sys.stderr.write(f"{backend}: {error}\n")
        return None


def attacked(sandbox: Sandbox) -> Findings:
    """Run every attack in one kind of box."""
    backend = sandbox.protections.backend
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="moe-ray-outside-") as name:
        Path(name).chmod(0o777)
        findings = run_attacks(sandbox, ATTACKS, Path(name))
    sys.stderr.write(f"{backend}: {len(findings.verdicts)} attacks in {time.perf_counter() - started:.1f} s\n")
    return findings


def row(attack: Attack, found: Sequence[Findings]) -> str:
    """Return the line of one attack."""
    cells = []
    for findings in found:
        verdict = findings.verdicts.get(attack.name)
        lacking = ", ".join(need for need in attack.needs if need in findings.missing)
        cells.append(WORDS[verdict.outcome] if verdict else f"not claimed ({lacking})")
    return f"| {attack.name} | {attack.tries} | {' | '.join(cells)} |"


def table(found: Sequence[Findings]) -> str:
    """Return the tables of all groups."""
    lines = []
    for title, attacks in GROUPS.items():
        lines += ["", f"### {title}", ""]
        lines.append(f"| attack | what it tries | {' | '.join(findings.backend for findings in found)} |")
        lines.append("| --- " * (2 + len(found)) + "|")
        lines += [row(attack, found) for attack in attacks]
    return "\n".join(lines)


def shares(backend: BackendName, measuring: Gauge) -> dict[str, float]:
    """Return, for every attack on memory that this box claims to hold, its peak as a share of the limit.

    The box is opened here, so that a control group of its own is made below the one that measures.
    """
    sandbox = Sandbox.open(CONFIG, backend=backend)
    with tempfile.TemporaryDirectory(prefix="moe-ray-outside-") as name:
        Path(name).chmod(0o777)
        programs = {attack.name: attack.program(Path(name)) for attack in claimed(ON_MEMORY, sandbox)}
        found = measure(sandbox, programs, measuring)
    return {name: peak_bytes / LIMIT_BYTES for name, (_, peak_bytes) in found.items()}


def peak_table(peaks: Mapping[BackendName, dict[str, float]]) -> str:
    """Return the table of peaks, by box."""
    lines = [f"| attack | {' | '.join(peaks)} |", "| --- " * (1 + len(peaks)) + "|"]
    for attack in ON_MEMORY:
        cells = [f"{of[attack.name]:.2f}" if attack.name in of else "not claimed (memory)" for of in peaks.values()]
        lines.append(f"| {attack.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    """Return one line about this machine."""
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    bubblewrap = "with" if shutil.which("bwrap") else "without"
    return f"{machine_line()}, Linux {platform.release()}, as {user}, {bubblewrap} bubblewrap"


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=BACKENDS, action="append")
    parser.add_argument("--no-groups", action="store_true", help="as on a machine where no control group can be made")
    arguments = parser.parse_args()
    if arguments.no_groups:
        setattr(sandbox_module, "open_groups", no_groups)  # noqa: B010  (mypy forbids the plain assignment)
    chosen = arguments.backend or BACKENDS
    sandboxes = [sandbox for backend in chosen if (sandbox := opened(backend)) is not None]
    found = [attacked(sandbox) for sandbox in sandboxes]
    print(f"{len(ATTACKS)} attacks. {machine()}.")
    print(table(found))
    with gauge() as measuring:
        peaks = {box: shares(box, measuring) for box in [sandbox.protections.backend for sandbox in sandboxes]}
    print(f"\n### Peak memory as a share of the limit of {LIMIT_BYTES >> 20} MiB, measured {measuring.how}\n")
    print(peak_table(peaks))
    wrong = [f"{findings.backend}: {name}: {end}" for findings in found for name, end in findings.surprises.items()]
    wrong += [f"{findings.backend}: {name} held its worker" for findings in found for name in findings.held]
    wrong += [f"{findings.backend}: left {trace}" for findings in found for trace in findings.left]
    wrong += [f"{findings.backend}: no longer works" for findings in found if not findings.still_works]
    wrong += [
        f"{box}: {name}: took {of[name]:.2f} of the limit"
        for box, of in peaks.items()
        for name in of
        if of[name] > MAX_SHARE
    ]
    print("\n" + ("\n".join(wrong) if wrong else "Every attack ended as it may, and nothing was left behind."))
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
