"""Programs are run once each, and counted into pass@k and exact match."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.domains.example import Example, GradingValue
from moe_ray.errors import DataError
from moe_ray.scoring.code import CodeGrader, pass_at_k
from moe_ray.scoring.controls import EMPTY_PASSES, WRONG_PASSES, Controls
from moe_ray.scoring.sandbox import Program, ProgramVerdict
from moe_ray.scoring.score import Score
from moe_ray.store.answers import Answer

CONFIG = SandboxConfig(allow_weak=True)
REFERENCE = "def f(x):\n    return x + 1"
EXAMPLE = Example(
    id="e1",
    domain="code",
    prompts={},
    reference=REFERENCE,
    grading={
        "tests": ["assert f(1) == 2", "assert g(f(0)) == 2"],
        "setup": "def g(x): return 2 * x",
        "test_imports": [],
    },
)


def answer(text: str | None, *, sample: int = 0, error: str | None = None) -> Answer:
    return Answer(
        key=f"k{sample}", kind="generate", model="m", domain="code", example_id="e1", sample_index=sample,
        messages="[]", settings="{}", text=text, token_ids=[], finish_reason="error" if error else "stop",
        num_prompt_tokens=1,
        num_completion_tokens=1, loglikelihoods=None, loglikelihood_tokens=None, error=error, batch_rows=1,
        time_to_first_token_s=None, total_s=0.1, replica="r", shard="s", finished_at=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("n", "c", "k"), [(n, c, k) for n in range(1, 7) for c in range(n + 1) for k in range(1, n + 1)]
)
def test_pass_at_k_is_the_share_of_all_draws_with_a_correct_one(n: int, c: int, k: int) -> None:
    samples = [True] * c + [False] * (n - c)
    draws = list(itertools.combinations(samples, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_of_many_samples_is_the_closed_form() -> None:
    for n, c, k in [(200, 7, 100), (1000, 3, 10), (100, 100, 100), (100, 1, 1)]:
        assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 6), (5, 6, 1), (5, -1, 1), (5, 1, 0), (0, 0, 1)])
def test_pass_at_k_is_not_made_up_where_it_is_not_defined(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(n, c, k)


class FakeSandbox:
    """Passes programs that hold the word right; remembers what it was given. `# N s` in a program is how long it takes,
    and then the limit counts, 4 s or its own."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def run_all(self, programs: Sequence[Program]) -> list[ProgramVerdict]:
        self.programs += programs
        return [self._verdict(program) for program in programs]

    @staticmethod
    def _verdict(program: Program) -> ProgramVerdict:
        if "broken" in program.code:
            return ProgramVerdict(outcome="sandbox_failed", detail="no box", wall_s=0.0)
        found = re.search(r"# ([\d.]+) s", program.code)
        wall_s = float(found[1]) if found else 0.1
        if wall_s > (program.timeout_s or CONFIG.timeout_s):
            return ProgramVerdict(outcome="timeout", detail="", wall_s=program.timeout_s or CONFIG.timeout_s)
        return ProgramVerdict(outcome="passed" if "right" in program.code else "failed", detail="", wall_s=wall_s)


def fake_grader(num_samples: int) -> tuple[CodeGrader, FakeSandbox]:
    grader, sandbox = CodeGrader(CONFIG, num_samples), FakeSandbox()
    vars(grader)["_sandbox"] = sandbox
    vars(grader)["_controls"] = Controls(FakeSandbox().run_all)
    return grader, sandbox


def values(scores: Sequence[Score]) -> dict[str, float | None]:
    return {score.metric: score.value for score in scores}


def test_an_answer_is_graded_by_really_running_it() -> None:
    grader = CodeGrader(CONFIG)
    right = grader.grade(EXAMPLE, "m", [answer(f"```python\n# so\n{REFERENCE}\n```")])
    wrong = grader.grade(EXAMPLE, "m", [answer("def f(x):\n    return 2 * x")])
    none = grader.grade(EXAMPLE, "m", [answer("I do not know.")])
    assert values(right) == {"exact_match": 1.0, "pass@1": 1.0}
    assert values(wrong) == {"exact_match": 0.0, "pass@1": 0.0}
    assert values(none) == {"exact_match": 0.0, "pass@1": 0.0}
    assert (wrong[1].detail or "").startswith("failed: AssertionError (test 2 of 2")
    assert "SyntaxError" in (none[1].detail or "")


def test_the_metrics_follow_from_the_number_of_samples() -> None:
    assert [metric.name for metric in CodeGrader(CONFIG, 1).metrics] == ["exact_match", "pass@1"]
    assert [metric.name for metric in CodeGrader(CONFIG, 10).metrics] == ["exact_match", "pass@1", "pass@5", "pass@10"]
    assert all(metric.binary for metric in CodeGrader(CONFIG, 1).metrics)
    assert not any(metric.binary for metric in CodeGrader(CONFIG, 10).metrics)


def test_samples_are_counted_into_pass_at_k() -> None:
    grader, _ = fake_grader(5)
    texts = ["right = 1", "right = 2", "x = 3", "x = 4", "x = 5"]
    scores = grader.grade(EXAMPLE, "m", [answer(text, sample=i) for i, text in enumerate(texts)])
    assert values(scores) == {"exact_match": 0.0, "pass@1": pytest.approx(0.4), "pass@5": 1.0}
    assert scores[1].detail == "2 of 5 samples passed"


def test_equal_programs_with_equal_tests_run_once() -> None:
    grader, sandbox = fake_grader(2)
    twice = [answer("right = 1"), answer("```python\nright = 1\n```", sample=1)]
    other = replace(EXAMPLE, id="e2", grading={"tests": ["assert f(1) == 3"]})
    grader.grade_many([(EXAMPLE, "m", twice), (EXAMPLE, "n", twice), (other, "m", twice)])
    assert len(sandbox.programs) == 2


def test_errors_and_missing_answers_are_unscored_and_reach_no_sandbox() -> None:
    grader, sandbox = fake_grader(1)
    without_tests = replace(EXAMPLE, grading={})
    rows = grader.grade_many(
        [(EXAMPLE, "m", []), (EXAMPLE, "m", [answer(None, error="too long")]), (without_tests, "m", [answer("x = 1")])]
    )
    assert all(score.value is None for row in rows for score in row)
    assert [row[0].reason for row in rows] == ["no answer", "error: too long", "the example has no tests"]
    assert sandbox.programs == []


def test_a_sandbox_that_fails_leaves_the_answer_unscored_and_not_at_zero() -> None:
    grader, _ = fake_grader(1)
    scores = grader.grade(EXAMPLE, "m", [answer("broken = 1")])
    assert values(scores) == {"exact_match": 0.0, "pass@1": None}
    assert "no box" in (scores[1].reason or "")


def test_pass_at_k_stands_on_the_samples_that_could_be_run() -> None:
    grader, _ = fake_grader(5)
    texts = ["right = 1", "x = 2", "broken = 3", "x = 4", "x = 5"]
    scores = grader.grade(EXAMPLE, "m", [answer(text, sample=i) for i, text in enumerate(texts)])
    assert values(scores) == {"exact_match": 0.0, "pass@1": 0.25, "pass@5": None}


def test_the_program_gets_the_setup_and_the_imports_of_its_tests() -> None:
    grader, sandbox = fake_grader(1)
    grading: dict[str, GradingValue] = {
        "tests": ["assert f(1)"],
        "setup": "y = 1",
        "test_imports": ["import math", "import re"],
    }
    grader.grade(replace(EXAMPLE, grading=grading), "m", [answer("right = 1")])
    expected = Program(code="right = 1", tests=("assert f(1)",), setup="import math\nimport re\ny = 1")
    assert sandbox.programs == [expected]


@pytest.mark.parametrize(
    ("reference", "answered", "value", "limits_s"),
    [
        ("right = 1  # 3 s", "right = 2  # 9 s", 1.0, [None, 16.0, 12.0]),
        ("right = 1  # 3 s", "right = 2  # 13 s", 0.0, [None, 16.0, 12.0]),
        ("right = 1  # 3 s", "right = 2  # 3 s", 1.0, [None]),
        ("right = 1  # 0.9 s", "right = 2  # 5 s", 0.0, [None, 16.0]),
        ("right = 1  # 17 s", "right = 2  # 5 s", 0.0, [None, 16.0]),
        ("wrong = 1  # 3 s", "right = 2  # 5 s", 0.0, [None, 16.0]),
        (" ", "right = 2  # 5 s", 0.0, [None]),
    ],
    ids=[
        "a slow program of a slow reference passes",
        "four times the reference is the end",
        "a program within the limit needs no reference",
        "a quick reference gives no more time",
        "a reference beyond its own limit gives no time",
        "a reference that fails gives no time",
        "no reference",
    ],
)  # fmt: skip
def test_a_program_may_take_four_times_its_references_time(
    reference: str, answered: str, value: float, limits_s: list[float | None]
) -> None:
    grader, sandbox = fake_grader(1)
    scores = grader.grade(replace(EXAMPLE, reference=reference), "m", [answer(answered)])
    assert scores[1].value == value
    assert [program.timeout_s for program in sandbox.programs] == limits_s


def test_a_reference_is_timed_once_for_all_models_and_calls() -> None:
    grader, sandbox = fake_grader(1)
    slow = replace(EXAMPLE, reference="right = 1  # 3 s")
    texts = ["right = 2  # 9 s", "right = 3  # 10 s"]
    first = grader.grade_many([(slow, model, [answer(text)]) for model, text in zip("mn", texts, strict=True)])
    second = grader.grade_many([(slow, "o", [answer("right = 4  # 99 s")])])
    assert [row[1].value for row in (*first, *second)] == [1.0, 1.0, 0.0]
    assert sum(program.code == slow.reference for program in sandbox.programs) == 1


def test_a_really_slow_reference_gives_its_programs_time() -> None:
    grader = CodeGrader(SandboxConfig(allow_weak=True, timeout_s=0.5))
    reference = "import time\ndef f(x):\n    time.sleep(0.2)\n    return x + 1"
    grading: dict[str, GradingValue] = {"tests": ["assert f(1) == 2", "assert f(2) == 3"]}
    slow = replace(EXAMPLE, reference=reference, grading=grading)
    patient, endless = reference.replace("0.2", "0.35"), "def f(x):\n    while True: pass"
    rows = grader.grade_many([(slow, "m", [answer(patient)]), (slow, "n", [answer(endless)])])
    assert [row[1].value for row in rows] == [1.0, 0.0]
    assert (rows[1][1].detail or "").startswith("timeout: not done after")


def test_the_sandbox_of_a_run_is_opened_once() -> None:
    assert CodeGrader(CONFIG)._sandbox is CodeGrader(CONFIG, 5)._sandbox


VACUOUS = {"defines": ["def check(candidate):\n    assert candidate(1) == 2"], "calls": ["f(1)"]}


def with_tests(example_id: str, tests: list[str]) -> Example:
    return replace(EXAMPLE, id=example_id, grading={"tests": tests})


def test_an_example_whose_tests_assert_nothing_is_unscored_and_not_passed() -> None:
    grader = CodeGrader(CONFIG)
    examples = [with_tests(name, tests) for name, tests in VACUOUS.items()] + [EXAMPLE]
    rows = grader.grade_many([(one, "m", [answer(REFERENCE)]) for one in examples])
    assert [row[1].value for row in rows] == [None, None, 1.0]
    assert [row[1].reason for row in rows] == [EMPTY_PASSES, WRONG_PASSES, None]
    assert [row[0].value for row in rows] == [1.0, 1.0, 1.0]
    assert not any(row[1].failed for row in rows)


def test_a_column_of_tests_that_assert_nothing_is_refused_with_words() -> None:
    examples = [EXAMPLE, *(with_tests(str(number), [*VACUOUS["defines"], f"x = {number}"]) for number in range(9))]
    with pytest.raises(DataError, match=r"the tests of 9 of 10 examples assert nothing; record 0: .* empty") as caught:
        CodeGrader(CONFIG).check_examples(examples)
    assert caught.value.where == "domains.code.columns.tests"


def test_a_few_examples_of_many_may_assert_nothing() -> None:
    useful = [with_tests(str(number), [f"assert f({number}) == {number + 1}"]) for number in range(9)]
    CodeGrader(CONFIG).check_examples([*useful, with_tests("vacuous", VACUOUS["defines"])])
    CodeGrader(CONFIG).check_examples([])


def test_the_check_before_a_run_has_a_bound() -> None:
    grader, ran = fake_grader(1)[0], FakeSandbox()
    vars(grader)["_controls"] = Controls(ran.run_all)
    grader.check_examples([with_tests(str(number), [f"assert f({number})"]) for number in range(5000)])
    assert len(ran.programs) == 2 * 100


def test_a_sample_that_could_not_be_run_gives_the_reason_and_no_other_does() -> None:
    grader, _ = fake_grader(5)
    texts = ["x = 1", "x = 2", "broken = 3", "right = 4", "x = 5"]
    (_, _, at_5) = grader.grade(EXAMPLE, "m", [answer(text, sample=i) for i, text in enumerate(texts)])
    assert at_5.reason == "4 of 5 samples could be run: no box"
    assert not at_5.failed
    errors = [answer(None, sample=i, error="too long") for i in range(3)]
    (_, _, at_5) = grader.grade(EXAMPLE, "m", [answer("x = 1", sample=3), answer("x = 2", sample=4), *errors])
    assert at_5.reason == "2 of 5 samples could be run: the others have no answer"


ENDINGS = (
    *(
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        "exit()",
        "quit(0)",
    ),
    "import threading, _thread\nthreading.Timer(0, _thread.interrupt_main).start()\nraise KeyboardInterrupt",
)


@pytest.mark.parametrize("tests", [["assert f(1) == 2"], ["assert f(1) == 2\nassert f(2) == 3"]], ids=["one", "two"])
def test_a_program_that_ends_the_interpreter_does_not_pass(tests: list[str]) -> None:
    codes = [*ENDINGS, *(f"def f(x):\n    {ending.replace(chr(10), chr(10) + '    ')}" for ending in ENDINGS)]
    scores = CodeGrader(CONFIG).grade_many(
        [(with_tests(str(i), tests), "m", [answer(code)]) for i, code in enumerate(codes)]
    )
    assert [row[1].value for row in scores] == [0.0] * len(codes)
