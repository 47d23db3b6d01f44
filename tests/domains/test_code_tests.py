"""Tests of programs in every published style fail a wrong program and pass a right one, or are refused with words."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_ray.config.schema import SandboxConfig
from moe_ray.domains.programs import UnusableTestsError, parse, runnable_tests
from moe_ray.scoring.sandbox import Program, Sandbox

RIGHT = "def f(x):\n    return x + 1\nclass Solution:\n    def g(self, x):\n        return x + 1"
WRONG = RIGHT.replace("x + 1", "x + 2")

CHECK = "def check(candidate):\n    assert candidate(1) == 2"
UNITTEST = "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 2)"
MAIN = 'if __name__ == "__main__":\n    '

STYLES: dict[str, tuple[Sequence[str], str | None]] = {
    "asserts": (["assert f(1) == 2", "assert f(2) == 3"], None),
    "asserts in one text": (["assert f(1) == 2\nassert f(2) == 3"], None),
    "HumanEval": ([f"METADATA = {{}}\n\n{CHECK}\n"], "f"),
    "a check that is called": ([f"{CHECK}\ncheck(f)"], None),
    "a check that another test calls": ([CHECK, "check(f)"], None),
    "a check of another name": (["def judge(candidate):\n    assert candidate(1) == 2"], "f"),
    "a check of another parameter": (["def check(f):\n    assert f(1) == 2"], "f"),
    "an entry point that is an expression": ([CHECK], "Solution().g"),
    "asserts about a candidate": (["assert candidate(1) == 2"], "f"),
    "pytest functions": (["def test_a():\n    assert f(1) == 2\ndef test_b():\n    f(1)"], None),
    "pytest functions with a default": (["def test_a(x=1):\n    assert f(x) == 2"], None),
    "pytest classes": (["class TestF:\n    def test_a(self):\n        assert f(1) == 2"], None),
    "pytest with a runner": ([f"def test_a():\n    assert f(1) == 2\n{MAIN}test_a()"], None),
    "unittest": ([UNITTEST], None),
    "unittest with a runner": ([f"{UNITTEST}\n{MAIN}unittest.main()"], None),
    "unittest with a bare runner": ([f"{UNITTEST}\nunittest.main()"], None),
    "unittest with a quiet runner": (
        [f"{UNITTEST}\nunittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(TestF))"],
        None,
    ),
    "unittest with fixtures": (
        [UNITTEST.replace("    def test_f", "    def setUp(self):\n        self.x = 1\n    def test_f", 1)],
        None,
    ),
    "unittest of one's own base": ([f"{UNITTEST}\nclass TestMore(TestF):\n    def test_g(self): f(1)"], None),
    "a main guard": ([f"{MAIN}assert f(1) == 2"], None),
    "a main guard the other way round": (['if "__main__" == __name__:\n    assert f(1) == 2'], None),
    "tests that print": (["print('testing')\nassert f(1) == 2\nprint('all tests passed')"], None),
    "an if": (["if f(1) != 2:\n    raise ValueError(f(1))"], None),
    "an import that may fail": (["try:\n    import numpy\nexcept ImportError:\n    pass\nassert f(1) == 2"], None),
}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox.open(SandboxConfig(allow_weak=True, timeout_s=10))


def test_every_style_passes_a_right_program_and_fails_a_wrong_and_an_empty_one(sandbox: Sandbox) -> None:
    made = [tuple(runnable_tests(tests, entry_point=entry_point)) for tests, entry_point in STYLES.values()]
    programs = [Program(code=code, tests=tests) for tests in made for code in (RIGHT, WRONG, "")]
    outcomes = [verdict.outcome for verdict in sandbox.run_all(programs)]
    by_style = {style: tuple(outcomes[3 * i : 3 * i + 3]) for i, style in enumerate(STYLES)}
    assert {style: found for style, found in by_style.items() if found[0] != "passed" or "passed" in found[1:]} == {}


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ([CHECK], r"nothing calls check\(candidate\)"),
        (["def helper():\n    return 2"], "nothing in them can fail"),
        (["import math\nx = 1\n'''text'''"], "nothing in them can fail"),
        (["class TestF:\n    x = 1"], "nothing in them can fail"),
        (["['assert f(1) == 2']"], "nothing in them can fail"),
        (["f returns 2 for 1"], "test 1 is not Python"),
        (["assert f(1) == 2", "assert ("], "test 2 is not Python"),
        (["("  * 100_000], "test 1 is not Python"),
        ([f"import unittest\nx = {'not ' * 500}f(1)\nunittest.main()"], "nested too deeply"),
        (["x" * 2_000_001], "longer than 2000000 characters"),
        (["import pytest\ndef test_a():\n    with pytest.raises(ValueError):\n        f(1)"], "they import pytest"),
        (["from solution import f\nassert f(1) == 2"], "they import solution"),
        (["from . import f\nassert f(1) == 2"], r"they import \.,"),
        (["def test_a():\n    import numpy.linalg\n    assert f(1) == 2"], "they import numpy"),
        (["def test_a(tmp_path):\n    assert f(1) == 2"], r"test_a\(tmp_path\) needs a test runner"),
        (["async def test_a():\n    assert f(1) == 2"], "the coroutine test_a needs a test runner"),
        (["class TestF:\n    def setup_method(self): pass\n    def test_a(self): f(1)"], "setup_method needs a test"),
    ],
)  # fmt: skip
def test_tests_that_cannot_judge_a_program_are_refused(tests: list[str], reason: str) -> None:
    with pytest.raises(UnusableTestsError, match=reason):
        runnable_tests(tests)


def test_a_setup_that_imports_what_is_missing_is_refused() -> None:
    with pytest.raises(UnusableTestsError, match="they import numpy"):
        runnable_tests(["assert f(1) == 2"], setup="import numpy as np")


def test_a_setup_that_is_no_python_is_refused() -> None:
    with pytest.raises(UnusableTestsError, match="the setup is not Python"):
        runnable_tests(["assert f(1) == 2"], setup="class (")


@pytest.mark.parametrize("entry_point", ["", "f(", "f; g", "import os", "f\nassert True", "5", "[f]", "'f'"])
def test_an_entry_point_that_names_nothing_is_refused(entry_point: str) -> None:
    with pytest.raises(UnusableTestsError, match="does not name a function"):
        runnable_tests([CHECK], entry_point=entry_point)


def test_tests_that_need_nothing_stay_as_they_are() -> None:
    tests = ["assert f(1) == 2  # a comment", "x = f(2)\nassert x == 3"]
    assert runnable_tests(tests, entry_point="f") == tests


STATEMENTS = st.sampled_from(
    [
        *(
            CHECK,
            UNITTEST,
            "assert f(1) == 2",
            "def test_a(): f(1)",
            "check(f)",
            "import os",
            "import numpy",
            "x = 1",
            "f",
        ),
        *("class TestA:\n    def test_b(self): f(1)", "unittest.main()", f"{MAIN}f(1)", "", "(", "\x00", "test_a = 1"),
        *(
            "def test_c(*, x): pass",
            "class A(B, metaclass=C): test = 1",
            "lambda candidate: 1",
            "@x\ndef test_e(): pass",
        ),
        "async def test_d(): await f(1)",
    ]
)


@given(st.lists(st.one_of(STATEMENTS, st.text(st.characters(exclude_categories=()), max_size=20)), max_size=6))
def test_any_tests_are_made_runnable_or_refused(tests: list[str]) -> None:
    try:
        made = runnable_tests(tests, entry_point="f")
    except UnusableTestsError:
        return
    assert made
    assert all(parse(test) is not None for test in made)
