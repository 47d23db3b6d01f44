"""Grading of generated programs: does the program pass its tests, and is it the reference?"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from moe_ray.config.schema import SandboxConfig
from moe_ray.domains.example import Example, GradingValue
from moe_ray.domains.programs import complete, parse, tidy, unparse
from moe_ray.errors import DataError
from moe_ray.scoring.controls import Controls, Suite, shared_controls
from moe_ray.scoring.samples import Item, UnscorableError, sample_detail, score, unscored, usable_texts
from moe_ray.scoring.sandbox import Program, ProgramVerdict, Sandbox, shared_sandbox
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer

BEGIN, DONE = "[BEGIN]", "[DONE]"
FENCE = "```"
PYTHON_TAGS = ("python", "py", "python3")

_TAG = re.compile(r"\w*")


def extract_program(text: str) -> str:
    """Return the program in an answer, without its common indentation; see `extract_code`."""
    return tidy(extract_code(text))


def extract_code(text: str) -> str:
    """Return the code in an answer, as it is indented there.

    What follows [DONE] and a leading [BEGIN] are cut. Of the blocks fenced as Python (of those fenced as nothing, if
    there are none) the first that parses counts, else the last; without fences, the whole text.
    """
    text = text.replace("\r\n", "\n").partition(DONE)[0]
    if text.lstrip().startswith(BEGIN):
        text = text.lstrip().removeprefix(BEGIN)
    blocks = fenced_blocks(text)
    tagged = [block for tag, block in blocks if tag in PYTHON_TAGS] or [block for tag, block in blocks if not tag]
    for block in tagged:
        if parse(tidy(block)) is not None:
            return block
    return tagged[-1] if tagged else text


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Return the tag (in lower case) and the content of each fenced block, in one pass over the lines.

    A block ends with the next line that begins with a fence, or with the text. A fence in the last line opens nothing.
    """
    lines = text.split("\n")
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, int] | None = None
    for number, line in enumerate(lines):
        bare = line.lstrip(" \t")
        if not bare.startswith(FENCE):
            continue
        if opened is not None:
            blocks.append((opened[0], "".join(f"{inner}\n" for inner in lines[opened[1] : number])))
            opened = None
        elif number < len(lines) - 1:
            opened = _tag(bare), number + 1
    if opened is not None:
        blocks.append((opened[0], "\n".join(lines[opened[1] :])))
    return blocks


def _tag(fence: str) -> str:
    found = _TAG.match(fence.removeprefix(FENCE).lstrip(" \t"))
    return found[0].lower() if found else ""


def normalised(code: str) -> str:
    """Return `code` without comments and with one layout, so that equal programs are equal texts."""
    tree = parse(code)
    written = None if tree is None else unparse(tree)
    return code.strip() if written is None else written


PASS_AT = (1, 5, 10, 100)
REFERENCE_TIME_FACTOR = 4.0
MAX_CHECKED = 100
MAX_USELESS = 0.1


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the chance that `k` of `num_samples` samples, drawn without replacement, hold one of `num_correct`.

    The unbiased estimator 1 - prod_{i=n-c+1..n} (1 - k/i). Raises `ValueError` when k > n or c > n.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ValueError(f"pass@{k} of {num_correct} correct among {num_samples} samples is not defined")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One example's extracted programs (one per usable sample) and its reference, or why there are none."""

    example: Example
    model: str
    suite: Suite | None = None
    programs: tuple[Program, ...] = ()
    reference: Program | None = None
    error: UnscorableError | None = None


class CodeGrader:
    """Runs programs against their tests. With several samples `exact_match` is the mean over the samples.

    A program may take the configured time, or four times what its reference takes where that is longer. A reference is
    timed only once a program of its example ran out of the configured time, and only up to four times that.

    Where the tests of an example pass a program that is wrong by construction, pass@k has no value: see `Controls`.

    The sandbox is opened when the first program must run; `SandboxError` is raised then.
    """

    def __init__(self, sandbox_config: SandboxConfig, num_samples: int = 1) -> None:
        self._sandbox_config = sandbox_config
        self._num_samples = num_samples
        self._reference_s: dict[Program, float | None] = {}
        self._ks = tuple(k for k in PASS_AT if k <= num_samples)
        self.metrics = (_exact_match(num_samples), *(_pass_metric(k, num_samples) for k in self._ks))

    @cached_property
    def _sandbox(self) -> Sandbox:
        return shared_sandbox(self._sandbox_config)

    @cached_property
    def _controls(self) -> Controls:
        return shared_controls(self._sandbox_config)

    def check_examples(self, examples: Sequence[Example]) -> None:
        """Raise `DataError` when the tests of more than a tenth of the first examples assert nothing."""
        suites = {example.id: suite for example in examples[:MAX_CHECKED] if (suite := _suite(example)) is not None}
        reasons = self._controls.reasons(suites.values())
        useless = [example_id for example_id, suite in suites.items() if suite in reasons]
        if len(useless) > MAX_USELESS * len(suites):
            raise DataError(
                f"the tests of {len(useless)} of {len(suites)} examples assert nothing; record {useless[0]}: "
                f"{reasons[suites[useless[0]]]}",
                where=f"domains.{examples[0].domain}.columns.tests",
                remedy="name the column whose tests fail when the program is wrong, or another grader than code",
            )

    def grade(self, example: Example, model: str, answers: Sequence[Answer]) -> list[Score]:
        """Return one score for each of `metrics`; see `Grader.grade`."""
        return self.grade_many([(example, model, answers)])[0]

    def grade_many(self, items: Sequence[Item]) -> list[list[Score]]:
        """Grade many examples at once, several programs at a time; equal programs with equal tests run once."""
        works = [_work(*item) for item in items]
        useless = self._controls.reasons(work.suite for work in works if work.suite is not None)
        judged = [work for work in works if work.suite not in useless]
        verdicts = self._run(program for work in judged for program in work.programs)
        verdicts |= self._run_longer(judged, verdicts)
        return [self._scores(work, verdicts, useless) for work in works]

    def _run(self, programs: Iterable[Program]) -> dict[Program, ProgramVerdict]:
        distinct = list(dict.fromkeys(programs))
        return dict(zip(distinct, self._sandbox.run_all(distinct), strict=True)) if distinct else {}

    def _run_longer(
        self, works: Iterable[_Work], verdicts: Mapping[Program, ProgramVerdict]
    ) -> dict[Program, ProgramVerdict]:
        """Run again what ran out of the configured time, where its reference needs long too."""
        slow = {
            program: work.reference
            for work in works
            for program in work.programs
            if work.reference is not None and verdicts[program].outcome == "timeout"
        }
        self._time(slow.values())
        longer = {
            program: replace(program, timeout_s=REFERENCE_TIME_FACTOR * reference_s)
            for program, reference in slow.items()
            if (reference_s := self._reference_s[reference]) is not None
            and REFERENCE_TIME_FACTOR * reference_s > self._sandbox_config.timeout_s
        }
        again = self._run(longer.values())
        return {program: again[patient] for program, patient in longer.items()}

    def _time(self, references: Iterable[Program]) -> None:
        """Note how long each reference takes to pass; None for one that does not, within its own limit."""
        limit_s = REFERENCE_TIME_FACTOR * self._sandbox_config.timeout_s
        new = {replace(reference, timeout_s=limit_s): reference for reference in references}
        missing = [patient for patient, reference in new.items() if reference not in self._reference_s]
        for patient, verdict in self._run(missing).items():
            self._reference_s[new[patient]] = verdict.wall_s if verdict.passed else None

    def _scores(
        self, work: _Work, verdicts: Mapping[Program, ProgramVerdict], useless: Mapping[Suite, str]
    ) -> list[Score]:
        if work.error is not None:
            return unscored(work.example, work.model, self.metrics, work.error)
        reference = normalised(work.example.reference)
        matches = [normalised(program.code) == reference for program in work.programs]
        exact = score(
            work.example,
            work.model,
            self.metrics[0],
            sum(matches) / len(matches),
            detail=sample_detail(len(matches), self._num_samples),
        )
        if work.suite is not None and work.suite in useless:
            error = UnscorableError(useless[work.suite])
            return [exact, *unscored(work.example, work.model, self.metrics[1:], error)]
        return [exact, *self._pass_scores(work, [verdicts[program] for program in work.programs])]

    def _pass_scores(self, work: _Work, verdicts: Sequence[ProgramVerdict]) -> list[Score]:
        known = [verdict for verdict in verdicts if verdict.outcome != "sandbox_failed"]
        num_correct = sum(verdict.passed for verdict in known)
        scores = []
        for k, metric in zip(self._ks, self.metrics[1:], strict=True):
            if len(known) < k:
                lost = [verdict.detail for verdict in verdicts if verdict.outcome == "sandbox_failed"]
                why = lost[0] if lost else "the others have no answer"
                reason = f"{len(known)} of {self._num_samples} samples could be run: {why}"
                scores.append(score(work.example, work.model, metric, None, reason=reason))
                continue
            value = pass_at_k(len(known), num_correct, k)
            scores.append(score(work.example, work.model, metric, value, detail=_detail(known)))
        return scores


def _exact_match(num_samples: int) -> Metric:
    definition = (
        "the program equals the reference, comments and layout aside (both as ast.unparse writes them; as stripped "
        "texts where one does not parse)"
    )
    return Metric(name="exact_match", definition=definition, binary=num_samples == 1)


def _pass_metric(k: int, num_samples: int) -> Metric:
    definition = f"chance that one of {k} samples passes every test: 1 - prod_(i=n-c+1..n) (1 - {k}/i)"
    return Metric(name=f"pass@{k}", definition=definition, binary=k == num_samples == 1)


def _work(example: Example, model: str, answers: Sequence[Answer]) -> _Work:
    try:
        texts = usable_texts(answers)
    except UnscorableError as error:
        return _Work(example=example, model=model, error=error)
    suite = _suite(example)
    if suite is None:
        return _Work(example=example, model=model, error=UnscorableError("the example has no tests"))
    programs = tuple(Program(code=_program(example, text), tests=suite.tests, setup=suite.setup) for text in texts)
    reference = Program(code=example.reference, tests=suite.tests, setup=suite.setup)
    return _Work(
        example=example,
        model=model,
        suite=suite,
        programs=programs,
        reference=reference if example.reference.strip() else None,
    )


def _suite(example: Example) -> Suite | None:
    tests = _strings(example.grading.get("tests"))
    setup = [*_strings(example.grading.get("test_imports")), *_strings(example.grading.get("setup"))]
    return Suite(tests, "\n".join(setup)) if tests else None


def _program(example: Example, text: str) -> str:
    """Return the program in an answer; where the answer completes a prefix, all of it."""
    prefix, entry_point = example.grading.get("prefix"), example.grading.get("entry_point")
    if not isinstance(prefix, str):
        return extract_program(text)
    return complete(prefix, extract_code(text), entry_point if isinstance(entry_point, str) else None)


def _strings(value: GradingValue) -> tuple[str, ...]:
    """Return the lines of code that a grading value holds: a text, a list of texts, or none."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    return tuple(value) if isinstance(value, list) else ()


def _detail(verdicts: Sequence[ProgramVerdict]) -> str:
    """Say how the programs did: the only one's outcome and last line, or how many passed."""
    if len(verdicts) > 1:
        return f"{sum(verdict.passed for verdict in verdicts)} of {len(verdicts)} samples passed"
    verdict = verdicts[0]
    return f"{verdict.outcome}: {verdict.detail}" if verdict.detail else verdict.outcome
