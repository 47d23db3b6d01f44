"""A run of the attacks, and what came of it; also a command, for users and circumstances other than the tests' own.

    python -m tests.support.sandbox.suite FOLDER EVERY [BACKEND]

prints one line of JSON.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moe_ray.config.schema import SandboxConfig
from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox import Program, ProgramVerdict, Sandbox
from moe_ray.scoring.sandbox.program import BackendName
from tests.support.sandbox.attacks import ATTACKS, Attack
from tests.support.sandbox.attacks.attack import LIMIT_BYTES, TESTS
from tests.support.sandbox.traces import heir, traces

CONFIG = SandboxConfig(timeout_s=5, memory_mib=LIMIT_BYTES >> 20, num_workers=4, allow_weak=True)
BACKENDS: tuple[BackendName, ...] = ("bubblewrap", "namespaces", "filters", "limits")
HONEST = Program(code="def f(x): return x + 40", tests=TESTS)
HELD = "no verdict after"
"""In the detail of a program that outlived the time limit inside its box, until the host ended the box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """`surprises` are attacks with an unexpected outcome, `held` those that the time limit inside the box did not end,
    `left` is what remained on the machine."""

    backend: str
    missing: list[str]
    verdicts: dict[str, ProgramVerdict]
    surprises: dict[str, str]
    held: dict[str, str]
    left: list[str]
    still_works: bool


def claimed(attacks: Sequence[Attack], sandbox: Sandbox) -> list[Attack]:
    """Return the attacks from which this sandbox claims to protect."""
    return [attack for attack in attacks if not set(attack.needs) & set(sandbox.protections.missing)]


def run_attacks(sandbox: Sandbox, attacks: Sequence[Attack], outside: Path) -> Findings:
    """Run those of `attacks` from which the sandbox claims to protect; `outside` is a folder offered to them."""
    attacks = claimed(attacks, sandbox)
    with heir() as known:
        run = sandbox.run_all([attack.program(outside) for attack in attacks])
        left = traces(outside, known)
    verdicts = {attack.name: verdict for attack, verdict in zip(attacks, run, strict=True)}
    return Findings(
        backend=sandbox.protections.backend,
        missing=list(sandbox.protections.missing),
        verdicts=verdicts,
        surprises={
            attack.name: f"{verdicts[attack.name].outcome}: {verdicts[attack.name].detail}"
            for attack in attacks
            if verdicts[attack.name].outcome not in attack.outcomes
        },
        held={name: verdict.detail for name, verdict in verdicts.items() if HELD in verdict.detail},
        left=left,
        still_works=all(verdict.passed for verdict in sandbox.run_all([HONEST] * 4)),
    )


def main() -> None:
    """Run every EVERYth attack in BACKEND, or in the strongest that works, and print the findings, or why none did."""
    outside, every = Path(sys.argv[1]), int(sys.argv[2])
    backend = next((name for name in BACKENDS if name in sys.argv[3:]), None)
    try:
        sandbox = Sandbox.open(CONFIG, backend=backend)
    except SandboxError as error:
        sys.stdout.write(json.dumps({"refused": str(error)}))
        return
    sys.stdout.write(json.dumps(asdict(run_attacks(sandbox, ATTACKS[::every], outside))))


if __name__ == "__main__":
    main()
