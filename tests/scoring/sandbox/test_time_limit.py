"""A time limit is of CPU time where the machine is busy, and programs that sleep reach it all the same."""

import os
from collections.abc import Sequence
from itertools import chain, repeat

import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.scoring.sandbox import Program, ProgramVerdict, Sandbox
from moe_ray.scoring.sandbox import sandbox as sandbox_module
from moe_ray.scoring.sandbox.guest import clock
from moe_ray.scoring.sandbox.guest.clock import Clock

TESTS = ("assert f() == 1",)
QUICK = Program(code="def f(): return 1", tests=TESTS)
SLEEPING = Program(code="import time\ndef f():\n    time.sleep(60)", tests=TESTS)
ENDLESS = Program(code="def f():\n    while True: pass", tests=TESTS)


class Machine:
    """A clock and a process on it, which gets a share of the time in turns; nothing really passes."""

    def __init__(self, shares: Sequence[float]) -> None:
        self.now = 100.0
        self.cpu_s = 0.0
        self._shares = chain(shares, repeat(shares[-1]))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.cpu_s += seconds * next(self._shares)


def end(shares: Sequence[float], limit_s: float = 4.0) -> tuple[str, float]:
    """Return how the time of a process ended, and when by the wall, when it never ends itself."""
    machine = Machine(shares)
    watched = Clock(limit_s, (1,), now=lambda: machine.now, cpu=lambda _: machine.cpu_s)
    for _ in range(10_000):
        over = watched.over()
        if over is not None:
            return over[0], machine.now - 100.0
        assert watched.left_s() > 0
        machine.wait(watched.left_s() + 1e-9)
    raise AssertionError("its time is never over")


@pytest.mark.parametrize(
    ("shares", "outcome", "wall_s"),
    [
        ([1.0], "timeout", 4.0),
        ([0.0], "idle", 4.0),
        ([0.99, 0.0], "idle", 4.0),
        ([0.5], "timeout", 8.0),
        ([0.25], "timeout", 16.0),
        ([0.01], "idle", 20.0),
        ([0.9, 0.9, 0.9, 0.0], "idle", 5.0),
    ],
    ids=["works", "sleeps", "sleeps in the end", "half a core", "a quarter", "a hundredth", "sleeps when it is late"],
)
def test_time_is_over_when_the_cpu_time_is_or_when_none_is_taken(
    shares: list[float], outcome: str, wall_s: float
) -> None:
    found, ended_s = end(shares)
    assert found == outcome
    assert ended_s == pytest.approx(wall_s, abs=1.1 if wall_s > 4 else 0.1)


def test_a_cpu_clock_of_a_process_that_is_not_there_says_nothing() -> None:
    assert clock.cpu_seconds(1 << 22) == 0.0
    assert clock.cpu_seconds(os.getpid()) > 0.0


def test_sleeping_and_endless_programs_run_out_of_time() -> None:
    sandbox = Sandbox.open(SandboxConfig(timeout_s=0.5, num_workers=2, allow_weak=True))
    sleeping, endless, quick = sandbox.run_all([SLEEPING, ENDLESS, QUICK])
    assert (sleeping.outcome, endless.outcome, quick.outcome) == ("timeout", "timeout", "passed")
    assert sleeping.idle
    assert not endless.idle
    assert "not done after" in sleeping.detail


class Runs:
    """What `run_once` gives: an idle timeout for programs that sleep, and for others where the machine is crowded."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.is_crowded = True

    def __call__(self, _box: object, program: Program, *, timeout_s: float, worker: int) -> ProgramVerdict:
        is_idle = "sleep" in program.code or (self.is_crowded and self.codes.count(program.code) == 0)
        self.codes.append(program.code)
        return ProgramVerdict(
            outcome="timeout" if is_idle else "passed", detail=f"{timeout_s} {worker}", wall_s=4.0, idle=is_idle
        )


def sandbox_of(runs: Runs, monkeypatch: pytest.MonkeyPatch, *, is_busy: bool) -> Sandbox:
    sandbox = Sandbox.open(SandboxConfig(num_workers=2, allow_weak=True))
    monkeypatch.setattr(sandbox_module, "run_once", runs)
    monkeypatch.setattr(sandbox_module, "_is_busy", lambda: is_busy)
    return sandbox


def test_what_got_no_time_on_a_busy_machine_is_run_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    programs = [Program(code=f"x = {number}", tests=TESTS) for number in range(20)]
    verdicts = sandbox_of(runs, monkeypatch, is_busy=True).run_all(programs)
    assert [verdict.outcome for verdict in verdicts] == ["passed"] * 20
    assert runs.codes[20:] == [program.code for program in programs]


def test_programs_that_sleep_cost_a_bounded_time_more(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    programs = [Program(code=f"sleep({number})", tests=TESTS) for number in range(20)]
    verdicts = sandbox_of(runs, monkeypatch, is_busy=True).run_all(programs)
    assert {verdict.outcome for verdict in verdicts} == {"timeout"}
    assert len(runs.codes) == 24


def test_nothing_is_repeated_on_a_machine_that_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    sandbox_of(runs, monkeypatch, is_busy=False).run_all([SLEEPING, QUICK])
    assert len(runs.codes) == 2
