"""No attack escapes, hangs the run, passes, or leaves something behind: in every kind of box that works here."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox import Program, Sandbox, execution
from tests.support.sandbox.attacks import ATTACKS
from tests.support.sandbox.suite import BACKENDS, CONFIG, HELD, HONEST, run_attacks

ALWAYS_CLAIMED = {"time", "output"}
CLAIMED_WITH_FILTERS = {*ALWAYS_CLAIMED, "memory", "processes"}
EVERY = {"bubblewrap": 1, "namespaces": 3, "filters": 2, "limits": 2}
"""Which attacks each box gets here, to save time; `python -m benchmarks.sandbox_attacks` gives each box all."""


@pytest.fixture(params=[BACKENDS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in BACKENDS[1:])])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    try:
        return Sandbox.open(CONFIG, backend=request.param)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that all may write; and a secret in the environment."""
    monkeypatch.setenv("MOE_RAY_SECRET", "secret")
    with tempfile.TemporaryDirectory(prefix="moe-ray-outside-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_every_attack_fails_and_leaves_nothing(sandbox: Sandbox, outside: Path) -> None:
    expected = ALWAYS_CLAIMED if sandbox.protections.backend == "limits" else CLAIMED_WITH_FILTERS
    assert not expected & set(sandbox.protections.missing)
    findings = run_attacks(sandbox, ATTACKS[:: EVERY[sandbox.protections.backend]], outside)
    assert findings.surprises == {}
    assert findings.held == {}
    assert findings.left == []
    assert findings.still_works


def test_an_attack_that_holds_its_worker_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host ends a box that gives no verdict, and says so; the load of the machine does not matter."""
    monkeypatch.setattr(execution, "MAX_WALL_FACTOR", 0.0)
    monkeypatch.setattr(execution, "START_GRACE_S", 1.0)
    weak = Sandbox.open(CONFIG, backend="limits")
    (verdict,) = weak.run_all([Program(code="import time; time.sleep(60)", tests=HONEST.tests, timeout_s=60)])
    assert HELD in verdict.detail


def test_an_attack_that_works_would_be_seen(outside: Path) -> None:
    """The attacks on what the weakest box does not claim really do get through there: they can fail elsewhere."""
    weak = Sandbox.open(CONFIG, backend="limits")
    names = ("reading the tests' source", "a shell", "socket AF_INET SOCK_STREAM")
    attacks = [attack for attack in ATTACKS if attack.name in names]
    assert [verdict.passed for verdict in weak.run_all([attack.program(outside) for attack in attacks])] == [True] * 3


def test_attacks_have_names_of_their_own_and_an_honest_answer_would_pass_their_tests(outside: Path) -> None:
    assert {name for name, count in Counter(attack.name for attack in ATTACKS).items() if count > 1} == set()
    assert {attack.program(outside).tests for attack in ATTACKS} == {HONEST.tests}
