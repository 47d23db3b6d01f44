"""The sandbox against evalplus's own checker: speed, verdicts, and what each lets pass.

    python -m benchmarks.sandbox_evalplus [--pairs 3] [--tasks 100] [--python PYTHON] [--data MBPP.jsonl]

`--python` is an interpreter with evalplus; without it a virtual environment with evalplus is made. Both check the same
solutions (right, wrong, endless) with the same number of workers and time limit, in turn. Then a few harmless attacks:
they write a marker into a temporary folder at most. `--data` adds the references of MBPP records, as published and
broken, whose asserts are of the form `f(...) == value`. Exits with 1 when the verdicts on honest solutions differ, the
sandbox lets an attack pass, or it checks fewer than 20 solutions a second.
"""

import argparse
import ast
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_line
from moe_ray.config.schema import SandboxConfig
from moe_ray.scoring.sandbox import Program, Sandbox
from tests.support.reference_programs import broken

EVALPLUS = "evalplus==0.3.1"
SIDE = Path(__file__).with_name("evalplus_side.py")
TIMEOUT_S = 1.0
MIN_PER_S = 20.0
# evalplus only asks of these functions whether they return None, against tests that it wrote for that.
NONE_OR_NOT = frozenset({"check_str", "text_match_three", "text_starta_endb"})
ENDLESS_EVERY = 25
SECRET = "MOE_RAY_BENCHMARK_SECRET"
OPERATIONS = (
    ("sum(a * {k} for a in x)", "sum(a * {k} for a in x) + 1"),
    ("sorted(x, key=lambda a: (a % {k}, a))", "sorted(x, reverse=True)"),
    ("[a for a in x if a % {k} == 0]", "[a for a in x if a % {k} != 0]"),
    ("''.join(chr(97 + a % 26) for a in x) * {k}", "''.join(chr(98 + a % 26) for a in x)"),
    ("{{a: a ** 2 % {k} for a in x}}", "{{a: a ** 3 for a in x}}"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A program, and what its function must return for each list of arguments. `right`: what is known of it."""

    code: str
    entry_point: str
    inputs: list[list[Any]]
    expected: list[Any]
    right: bool
    timeout_s: float = TIMEOUT_S

    def program(self) -> Program:
        """Return it for the sandbox: the calls as asserts."""
        pairs = zip(self.inputs, self.expected, strict=True)
        tests = (f"assert {self.entry_point}({', '.join(map(repr, args))}) == {value!r}" for args, value in pairs)
        return Program(code=self.code, tests=tuple(tests), timeout_s=self.timeout_s)


def generated(num_tasks: int) -> list[Solution]:
    """Return a right and a wrong solution of each of `num_tasks` small tasks, and now and then an endless one."""
    solutions = []
    for number in range(num_tasks):
        right, wrong = (text.format(k=number % 7 + 2) for text in OPERATIONS[number % len(OPERATIONS)])
        inputs = [[[(number * 31 + i * j) % 97 for j in range(1, 9)]] for i in range(1, 4)]
        expected = [eval(right, {"x": args[0]}) for args in inputs]
        bodies = [(f"return {right}", True), (f"return {wrong}", False)]
        bodies += [("while True: pass", False)] if number % ENDLESS_EVERY == 0 else []
        for body, is_right in bodies:
            code = f"def f(x):\n    {body}\n"
            solutions.append(Solution(code=code, entry_point="f", inputs=inputs, expected=expected, right=is_right))
    return solutions


def of_records(path: Path) -> list[Solution]:
    """Return the references of MBPP records, as published and broken, where all asserts have plain arguments.

    Leaves out the tasks for which evalplus has another rule than equality.
    """
    solutions = []
    for record in map(json.loads, path.read_text().splitlines()):
        calls = [_call(test) for test in record["test_list"]]
        if (
            record["test_setup_code"]
            or len({name for name, _, _ in calls if name}) != 1
            or not all(c[0] for c in calls)
            or calls[0][0] in NONE_OR_NOT
        ):
            continue
        for code, right in ((record["code"].replace("\r", ""), True), (broken(record["code"]), False)):
            inputs, expected = [args for _, args, _ in calls], [value for _, _, value in calls]
            solutions.append(
                Solution(code=code, entry_point=calls[0][0], inputs=inputs, expected=expected, right=right)
            )
    return solutions


def _call(test: str) -> tuple[str, list[Any], Any]:
    """Return the parts of `assert name(arguments) == value`, or an empty name."""
    try:
        statement = ast.parse(test).body[0]
        compared = statement.test if isinstance(statement, ast.Assert) else None
        if not isinstance(compared, ast.Compare) or not isinstance(compared.left, ast.Call):
            return "", [], None
        called = compared.left
        if not isinstance(called.func, ast.Name) or called.keywords or not isinstance(compared.ops[0], ast.Eq):
            return "", [], None
        return called.func.id, [ast.literal_eval(a) for a in called.args], ast.literal_eval(compared.comparators[0])
    except (SyntaxError, ValueError):
        return "", [], None


def attacks(marker: Path) -> dict[str, Solution]:
    """Return harmless attacks by name, each of which passes only where it gets what it tries. They know no answer but
    by what they found, and touch nothing but `marker`."""
    codes = {
        "answers that equal everything": "class Y:\n    def __eq__(self, other): return True\ndef f(x): return Y()",
        "prints success": "print('passed')\ndef f(x): print('passed')",
        "ends early with status 0": "import os\nos._exit(0)",
        "patches the result channel": (
            "import sys\nframe = sys._getframe()\nwhile frame and 'stat' not in frame.f_locals: frame = frame.f_back\n"
            "l = frame.f_locals\nl['stat'].value = 0\nl['progress'].value = len(l['inputs'])\n"
            "for i in range(len(l['inputs'])): l['details'][i] = True\nimport os\nos._exit(0)"
        ),
        "reads what is expected": (
            "import sys\ndef f(x):\n    frame = sys._getframe()\n"
            "    while 'expected' not in frame.f_locals: frame = frame.f_back\n"
            "    return frame.f_locals['expected'][x]"
        ),
        "reads a secret of the environment": (
            f"import os\nos.environ[{SECRET!r}]\ndef f(x): return [[1, 4], [2, 5]][x]"
        ),
        "writes a file outside": (
            f"import os\nos.close(os.open({str(marker)!r}, os.O_CREAT | os.O_WRONLY))\n"
            "def f(x): return [[1, 4], [2, 5]][x]"
        ),
        "runs another program": (
            "import _posixsubprocess, os\npid = os.posix_spawn('/bin/true', ['true'], {})\nos.waitpid(pid, 0)\n"
            "def f(x): return [[1, 4], [2, 5]][x]"
        ),
    }  # fmt: skip
    return {
        name: Solution(code=code, entry_point="f", inputs=[[0], [1]], expected=[[1, 4], [2, 5]], right=False)
        for name, code in codes.items()
    }


class Evalplus:
    """evalplus's checker in its own interpreter."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def check(self, solutions: list[Solution]) -> tuple[list[str], float]:
        """Return its word for every solution, and the wall seconds of all."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(repr([asdict(solution) for solution in solutions]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["verdicts"], answer["wall_s"]


@contextmanager
def evalplus(python: Path, num_workers: int) -> Iterator[Evalplus]:
    """Start evalplus's side, and end it."""
    command = [str(python), str(SIDE), str(num_workers)]
    environment = {**os.environ, SECRET: "secret"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Evalplus(process)
        process.communicate()


def install(folder: Path) -> Path:
    """Make a virtual environment with evalplus's checker and what it imports; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", EVALPLUS], check=True)
    subprocess.run([*pip, "numpy", "psutil"], check=True)
    return python


def ours(sandbox: Sandbox, solutions: list[Solution]) -> tuple[list[str], float]:
    """Return the sandbox's outcomes, and the wall seconds of all."""
    programs = [solution.program() for solution in solutions]
    started = time.perf_counter()
    verdicts = sandbox.run_all(programs)
    return [verdict.outcome for verdict in verdicts], time.perf_counter() - started


def compare_speed(sandbox: Sandbox, peer: Evalplus, solutions: list[Solution], num_pairs: int) -> tuple[float, int]:
    """Print the pairs; return the sandbox's median solutions per second, and on how many the two disagree."""
    speeds, ratios, num_apart = [], [], 0
    print(f"{len(solutions)} solutions\npair  sandbox/s  evalplus/s  ratio  agree")
    for number in range(num_pairs):
        first = ours(sandbox, solutions) if number % 2 == 0 else None
        theirs, theirs_s = peer.check(solutions)
        mine, mine_s = first or ours(sandbox, solutions)
        apart = [i for i in range(len(solutions)) if (mine[i] == "passed") != (theirs[i] == "pass")]
        speeds.append(len(solutions) / mine_s)
        ratios.append(theirs_s / mine_s)
        num_apart = max(num_apart, len(apart))
        print(
            f"{number + 1:4}  {speeds[-1]:9.1f}  {len(solutions) / theirs_s:10.1f}  {ratios[-1]:5.2f}"
            f"  {len(solutions) - len(apart)} of {len(solutions)}",
            flush=True,
        )
        for i in apart:
            known = "right" if solutions[i].right else "wrong"
            print(f"      {known}: sandbox {mine[i]}, evalplus {theirs[i]}: {solutions[i].code[:60]!r}")
    print(f"median: {statistics.median(speeds):.1f} solutions/s, {statistics.median(ratios):.2f} x evalplus's")
    return statistics.median(speeds), num_apart


def compare_attacks(sandbox: Sandbox, peer: Evalplus, marker: Path) -> int:
    """Print what each lets pass; return how many attacks the sandbox let pass."""
    chosen = attacks(marker)
    os.environ[SECRET] = "secret"
    print(f"\n{'attack':36}  sandbox       evalplus")
    num_passed = 0
    for name, attack in chosen.items():
        marker.unlink(missing_ok=True)
        (mine,), _ = ours(sandbox, [attack])
        mine = "wrote" if marker.exists() else mine
        (theirs,), _ = peer.check([attack])
        written = " (wrote)" if marker.exists() else ""
        num_passed += mine in ("passed", "wrote")
        print(f"{name:36}  {mine:12}  {theirs}{written}")
    return num_passed


def main() -> int:
    """Print both tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--python", type=Path, help="an interpreter that has evalplus")
    parser.add_argument("--data", type=Path, help="MBPP records")
    arguments = parser.parse_args()
    solutions = generated(arguments.tasks) + (of_records(arguments.data) if arguments.data else [])
    with tempfile.TemporaryDirectory(prefix="sandbox-evalplus-") as name:
        python = arguments.python or install(Path(name) / "venv")
        sandbox = Sandbox.open(SandboxConfig(num_workers=arguments.workers, allow_weak=True))
        print(f"{machine_line()}, Linux {platform.release()}; {EVALPLUS}")
        print(f"{arguments.workers} workers, at most {TIMEOUT_S:g} s each; {sandbox.protections.backend}")
        with evalplus(python, arguments.workers) as peer:
            per_s, num_apart = compare_speed(sandbox, peer, solutions, arguments.pairs)
            num_passed = compare_attacks(sandbox, peer, Path(name) / "marker")
    print(f"\nat least {MIN_PER_S:g} solutions/s: {'met' if per_s >= MIN_PER_S else 'MISSED'}")
    return 0 if per_s >= MIN_PER_S and not num_apart and not num_passed else 1


if __name__ == "__main__":
    sys.exit(main())
