"""Tests that pass a program which is wrong by construction are found, and no others."""

from collections.abc import Sequence

import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.scoring.controls import EMPTY_PASSES, WRONG_PASSES, Controls, Suite
from moe_ray.scoring.sandbox import Program, ProgramVerdict, Sandbox

SUITES = {
    "a check that nothing calls": (["def check(candidate):\n    assert candidate(1) == 2"], EMPTY_PASSES),
    "a test that nothing calls": (["def test_f():\n    assert f(1) == 2"], EMPTY_PASSES),
    "tests that catch everything": (["try:\n    assert f(1) == 2\nexcept Exception:\n    pass"], EMPTY_PASSES),
    "tests about something else": (["x = 1\nassert x == 1"], EMPTY_PASSES),
    "tests that end well at once": (["import sys\ntry:\n    sys.exit(0)\nexcept SystemExit:\n    pass"], EMPTY_PASSES),
    "calls without asserts": (["f(1)", "x = f(2)", "print(f(3))"], WRONG_PASSES),
    "methods without asserts": (["s = Stack()\ns.push(1)\ns.pop()"], WRONG_PASSES),
    "asserts that are caught": (["try:\n    assert f(1) == 2\nexcept AssertionError:\n    pass"], WRONG_PASSES),
    "comparisons without assert": (["f(1) == 2"], WRONG_PASSES),
    "a tuple that is always true": (["assert (f(1) == 2, 'wrong')"], WRONG_PASSES),
    "an equal result": (["assert f(1) == 2"], None),
    "a true result": (["assert f(1)"], None),
    "a false result": (["assert not f(1)"], None),
    "no result": (["assert f(1) is None"], None),
    "a type": (["assert isinstance(f(1), int)"], None),
    "a length": (["assert len(f(1)) == 2"], None),
    "an empty result": (["assert len(f(1)) == 0"], None),
    "a loop over results": (["n = 0\nfor x in f(3):\n    n += x\nassert n == 3"], None),
    "an expected error": (["try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"], None),
    "a method's result": (["s = Stack()\ns.push(1)\nassert s.pop() == 1"], None),
    "a name of the setup": (["assert g(f(1)) == 2"], None),
    "an inner function": (["def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"], None),
    "endless tests": (["while True:\n    pass"], None),
}


@pytest.mark.slow
def test_exactly_the_tests_that_assert_nothing_are_found() -> None:
    controls = Controls(Sandbox.open(SandboxConfig(allow_weak=True, timeout_s=2)).run_all)
    suites = {name: Suite(tuple(tests), "def g(x):\n    return x") for name, (tests, _) in SUITES.items()}
    found = controls.reasons(suites.values())
    assert {name: found.get(suite) for name, suite in suites.items()} == {
        n: reason for n, (_, reason) in SUITES.items()
    }


class CountingSandbox:
    """Passes every program; counts the programs."""

    def __init__(self) -> None:
        self.num_programs = 0

    def run_all(self, programs: Sequence[Program]) -> list[ProgramVerdict]:
        self.num_programs += len(programs)
        return [ProgramVerdict(outcome="passed", detail="", wall_s=0.1) for _ in programs]


def test_a_suite_is_controlled_once() -> None:
    sandbox = CountingSandbox()
    controls = Controls(sandbox.run_all)
    suite = Suite(("assert True",), "")
    assert controls.reasons([suite, suite]) == controls.reasons([suite]) == {suite: EMPTY_PASSES}
    assert sandbox.num_programs == 2
    assert controls.reasons([]) == {}


@pytest.mark.parametrize(
    "test", ["assert (", "\x00", "x" * 2_000_001, "\ud800"], ids=["cut", "null", "long", "surrogate"]
)
def test_tests_that_do_not_parse_are_controlled_too(test: str) -> None:
    assert Controls(CountingSandbox().run_all).reasons([Suite((test,), "")])
