"""Controls of tests: programs that are wrong by construction. Tests that pass one of them assert nothing."""

import ast
import builtins
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from moe_ray.config.schema import SandboxConfig
from moe_ray.domains.programs import MAX_TEST_CHARS, parse
from moe_ray.scoring.sandbox import Program, ProgramVerdict, shared_sandbox

EMPTY_PASSES = "its tests pass an empty program: they assert nothing"
WRONG_PASSES = "its tests pass a program whose every result is wrong: they assert nothing"

# Each name that the tests use is this object, and so is whatever is called or read of it. It equals nothing. One
# control has a true object of some length, the other a false one of none, so that `assert f(x)` fails in one of them.
WRONG = """\
class _Wrong:
    def __init__(self, *args, **kwargs): pass
    def __call__(self, *args, **kwargs): return self
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return self
    def __getitem__(self, key): return self
    def __iter__(self): return iter(())
    def __len__(self): return {length}
    def __bool__(self): return {length} > 0
    def __repr__(self): return "a wrong result"
{names} = _Wrong()
"""


class Suite(NamedTuple):
    """The tests of one example, and their setup."""

    tests: tuple[str, ...]
    setup: str


class Controls:
    """Runs the controls of tests, once for each suite, and remembers what came of it."""

    def __init__(self, run: Callable[[Sequence[Program]], Sequence[ProgramVerdict]]) -> None:
        self._run = run
        self._reasons: dict[Suite, str | None] = {}

    def reasons(self, suites: Iterable[Suite]) -> dict[Suite, str]:
        """Return why tests are of no use, for those of `suites` that are."""
        wanted = list(dict.fromkeys(suites))
        new = [suite for suite in wanted if suite not in self._reasons]
        if new:
            self._reasons |= self._find(new)
        return {suite: reason for suite in wanted if (reason := self._reasons[suite]) is not None}

    def _find(self, suites: Sequence[Suite]) -> dict[Suite, str | None]:
        """Run the empty program and the false results against all suites, and the true ones where the latter pass."""
        names = {suite: _names(suite) for suite in suites}
        first = [Program(code="", tests=suite.tests, setup=suite.setup) for suite in suites]
        first += [_wrong(suite, names[suite], length=0) for suite in suites]
        passed = [verdict.passed for verdict in self._run(first)]
        empty, is_false = dict(zip(suites, passed, strict=False)), dict(zip(suites, passed[len(suites) :], strict=True))
        again = [suite for suite in suites if is_false[suite] and not empty[suite]]
        verdicts = self._run([_wrong(suite, names[suite], length=7919) for suite in again]) if again else []
        is_true = {suite: verdict.passed for suite, verdict in zip(again, verdicts, strict=True)}
        return {
            suite: EMPTY_PASSES if empty[suite] else WRONG_PASSES if is_true.get(suite) else None for suite in suites
        }


@cache
def shared_controls(config: SandboxConfig) -> Controls:
    """Return this process's controls for `config`: what was found before a run is known when it is graded."""
    return Controls(lambda programs: shared_sandbox(config).run_all(programs))


def _wrong(suite: Suite, names: Sequence[str], *, length: int) -> Program:
    code = WRONG.format(length=length, names=" = ".join(["_wrong", *names]))
    return Program(code=code, tests=suite.tests, setup=suite.setup)


def _names(suite: Suite) -> list[str]:
    """Return the names that the tests take from the program: those that they use and that nothing else defines."""
    trees = [tree for text in (*suite.tests, suite.setup) if (tree := parse(text, MAX_TEST_CHARS)) is not None]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return sorted(used - _bound(nodes) - set(dir(builtins)))


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found
