"""No attack escapes, hangs the run, passes, or leaves something behind: in every kind of box that works here."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox import Program, Sandbox
from moe_ray.scoring.sandbox.program import BackendName
from tests.scoring.sandbox.attacks import ATTACKS, TESTS, Attack

ENDLESS_TIMEOUT_S = 0.4
CONFIG = SandboxConfig(timeout_s=5, memory_mib=256, num_workers=4, allow_weak=True)
BACKENDS: tuple[BackendName, ...] = ("bubblewrap", "namespaces", "filters", "limits")


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    try:
        return Sandbox.open(CONFIG, backend=request.param)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def outside() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moe-ray-outside-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def program(attack: Attack, outside: Path) -> Program:
    code = attack.code
    if "{" in code and any(field in code for field in ("{outside", "{home", "{pid", "{{")):
        code = code.format(outside=str(outside), home=str(Path.home()), pid=os.getpid())
    return Program(code=code, tests=TESTS, timeout_s=ENDLESS_TIMEOUT_S if "timeout" in attack.outcomes else None)


def test_every_attack_fails_and_leaves_nothing(sandbox: Sandbox, outside: Path) -> None:
    missing = set(sandbox.protections.missing)
    attacks = [attack for attack in ATTACKS if not missing & set(attack.needs)]
    before = {process.pid for process in psutil.process_iter()}
    started = time.monotonic()

    verdicts = sandbox.run_all([program(attack, outside) for attack in attacks])

    ended = {attack.name: verdict for attack, verdict in zip(attacks, verdicts, strict=True)}
    wrong = {attack.name: ended[attack.name] for attack in attacks if ended[attack.name].outcome not in attack.outcomes}
    assert not wrong
    assert time.monotonic() - started < 60
    assert list(outside.iterdir()) == []
    ours = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before]
    assert not [p for p in ours if "sandbox.guest" in " ".join(p.info["cmdline"] or [])]


def test_the_box_still_works_after_the_attacks(sandbox: Sandbox) -> None:
    honest = Program(code="def f(x): return x + 40", tests=TESTS)
    assert [verdict.outcome for verdict in sandbox.run_all([honest] * 4)] == ["passed"] * 4
