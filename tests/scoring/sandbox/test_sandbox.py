"""What an honest program may do, how verdicts differ, and what is asked before weak boxes are used."""

from typing import Any

import pytest

from moe_ray.config.schema import SandboxConfig
from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox import Program, ProgramVerdict, Protections, Sandbox
from moe_ray.scoring.sandbox import sandbox as sandbox_module
from moe_ray.scoring.sandbox.boxes import Box


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox.open(SandboxConfig(timeout_s=4, memory_mib=512, num_workers=2, allow_weak=True))


def run(sandbox: Sandbox, code: str, *tests: str, setup: str = "") -> ProgramVerdict:
    return sandbox.run_all([Program(code=code, tests=tests, setup=setup)])[0]


HONEST: dict[str, tuple[Any, ...]] = {
    "plain values": (
        "def f(x): return x",
        ("assert f([1, 'a', 2.5, None, True, b'x', 1j]) == [1, 'a', 2.5, None, True, b'x', 1j]",),
    ),
    "nested values": ("def f(x): return {'a': [(1, {2}), x]}", ("assert f(frozenset([3])) == {'a': [(1, {2}), {3}]}",)),
    "large numbers": ("def f(x): return -(7 ** x)", ("assert f(9999) == -(7 ** 9999)",)),
    "not a number": ("def f(): return float('nan')", ("assert f() != f()",)),
    "surrogates": ("def f(x): return x", ("assert f('\\ud800\\U0001f600') == '\\ud800\\U0001f600'",)),
    "a counter": (
        "from collections import Counter\ndef f(x): return Counter(x)",
        ("assert f('aab') == {'a': 2, 'b': 1}",),
    ),
    "a default dict": (
        "from collections import defaultdict\ndef f(x):\n    d = defaultdict(int)\n    d[x] += 1\n    return d",
        ("assert f('a') == {'a': 1}",),
    ),
    "order of ordered dicts": (
        "from collections import OrderedDict as O\ndef f(): return O(a=1, b=2)",
        ("from collections import OrderedDict as O\nassert f() == O(a=1, b=2) != O(b=2, a=1)",),
    ),
    "decimals, fractions, dates": (
        "from decimal import Decimal\nfrom fractions import Fraction\nimport datetime\n"
        "def f(): return Decimal('1.10'), Fraction(1, 3), datetime.date(2020, 2, 29)",
        ("import datetime\nassert str(f()[0]) == '1.10' and f()[1] * 3 == 1 and f()[2] == datetime.date(2020, 2, 29)",),
    ),
    "a generator": ("def f(n):\n    yield from range(n)", ("assert list(f(3)) == [0, 1, 2]", "assert sum(f(4)) == 6")),
    "keyword arguments": ("def f(a, *, b=1): return a - b", ("assert f(a=3, b=2) == 1",)),
    "changing an argument": (
        "def f(x):\n    x.sort()\n",
        ("x = [3, 1]\nassert f(x) is None and x == [1, 3]",),
    ),
    "a class": (
        "class P:\n    def __init__(self, a): self.a = a\n    def more(self): self.a += 1\ndef f(p): return p.a",
        ("p = P(1)\np.more()\nassert f(p) == 2 and p.a == 2 and isinstance(p, P) and not isinstance(3, P)",),
    ),
    "a tree built by the setup": (
        "class N:\n    def __init__(self, v): self.v, self.l = v, None\ndef f(n): return 1 + f(n.l) if n else 0",
        ("assert f(root) == 2",),
        "root = N(1)\nroot.l = N(2)",
    ),
    "a lambda from the test": (
        "def f(g, x): return g(x)",
        ("assert f(lambda v: v * 2, 4) == 8", "assert f(len, 'ab') == 2"),
    ),
    "a type from the test": ("def f(x, t): return isinstance(x, t)", ("assert f(1, int) and not f('1', int)",)),
    "a check function in the setup": (
        "def f(x): return x * 2",
        ("check(f)",),
        "def check(candidate):\n    assert all(candidate(i) == 2 * i for i in range(5))",
    ),
    "the setup's imports": ("def f(x): return math.floor(x)", ("assert f(2.5) == math.floor(2.5)",), "import math"),
    "the program's imports": ("import math as m\ndef f(x): return m.sin(x)", ("assert m.isclose(f(1.0), m.sin(1))",)),
    "a name that is a library's": ("def copy(a): return [*a, 1]", ("assert copy([2]) == [2, 1]",)),
    "a name that is a builtin": ("def sum(a, b): return a + b", ("assert sum(1, 2) == 3",)),
    "an exception the test expects": (
        "def f(x): raise ValueError('no')",
        ("try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == 'no'\nelse:\n    assert False",),
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor as T\n"
        "def f(x):\n    with T(2) as t: return list(t.map(abs, x))",
        ("assert f([-1, 2]) == [1, 2]",),
    ),
    "printing": ("def f(x):\n    print('passed' * 100)\n    return x", ("assert f(1) == 1",)),
    "dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\ndef f(): return P(1)",
        ("assert f() == P(1) and f() != P(2) and str(f()) == 'P(a=1)'",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(sandbox: Sandbox, name: str) -> None:
    code, tests, *setup = HONEST[name]
    verdict = run(sandbox, code, *tests, setup="".join(setup))
    assert verdict.outcome == "passed", verdict


def test_a_file_in_its_own_scratch_may_be_written_where_there_is_one(sandbox: Sandbox) -> None:
    if sandbox.protections.backend not in ("bubblewrap", "namespaces"):
        pytest.skip("no box with a scratch works here")
    code = "import tempfile\ndef f(x):\n    with tempfile.TemporaryFile() as t:\n        return t.write(x)"
    assert run(sandbox, code, "assert f(b'abc') == 3").passed


OWN_FILES = {
    "sqlite": (
        "import sqlite3\ndef f(x):\n    with sqlite3.connect('own.db') as db:\n"
        "        db.execute('create table t(v)')\n"
        "        db.execute('insert into t values (?)', [x])\n    return sqlite3.connect('own.db').execute("
        "'select v from t').fetchall()"
    ),
    "locks": (
        "import fcntl\ndef f(x):\n    with open('own', 'w') as file:\n        fcntl.flock(file, fcntl.LOCK_EX)\n"
        "        fcntl.lockf(file, fcntl.LOCK_EX)\n        fcntl.flock(file, fcntl.LOCK_UN)\n    return [(x,)]"
    ),
    "written through to the disk": (
        "import os\ndef f(x):\n    with open('own', 'w') as file:\n        os.fsync(file.fileno())\n"
        "        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)\n    os.sync()\n    return [(x,)]"
    ),
    "mapped": (
        "import mmap\ndef f(x):\n    open('own', 'wb').write(b'abc')\n    with open('own', 'r+b') as file:\n"
        "        with mmap.mmap(file.fileno(), 0) as mapped: mapped[0:1] = b'x'\n"
        "    return [(x,)] if open('own', 'rb').read() == b'xbc' else []"
    ),
    "copied": (
        "import os, shutil\ndef f(x):\n    open('own', 'w').write('abc')\n    shutil.copyfile('own', 'copy')\n"
        "    assert not os.isatty(os.open('copy', os.O_RDONLY))\n"
        "    return [(x,)] if open('copy').read() == 'abc' else []"
    ),
}


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_program_may_work_with_files_of_its_own(sandbox: Sandbox, name: str) -> None:
    if sandbox.protections.backend not in ("bubblewrap", "namespaces"):
        pytest.skip("no box with a scratch works here")
    verdict = run(sandbox, OWN_FILES[name], "assert f(7) == [(7,)]")
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("code", "test", "outcome", "said"),
    [
        ("def f(): return 1", "assert f() == 2", "failed", "test 1 of 1"),
        ("def f(): return 1 / 0", "assert f() == 2", "error", "ZeroDivisionError: division by zero"),
        ("def f(): assert False, 'mine'", "assert f() == 2", "error", "mine"),
        ("class E(Exception): pass\ndef f(): raise E('why')", "assert f() == 2", "error", "E: why"),
        ("def g(): return 1", "assert f() == 2", "error", "NameError"),
        ("def f(: pass", "assert f() == 2", "error", "SyntaxError"),
        ("def f(): return 1", "assert f( == 2", "error", "SyntaxError"),
        ("def f(): raise MemoryError", "assert f() == 2", "memory", "MemoryError"),
        ("import os\nos._exit(3)", "assert f() == 2", "error", "status 3"),
        ("import os\nos.abort()", "assert f() == 2", "error", "signal 6"),
    ],
)  # fmt: skip
def test_a_verdict_says_what_happened(sandbox: Sandbox, code: str, test: str, outcome: str, said: str) -> None:
    verdict = run(sandbox, code, test)
    assert (verdict.outcome, said in verdict.detail) == (outcome, True), verdict
    assert "\n" not in verdict.detail


FORGERIES = {
    "arithmetic sees the expected value": (
        "class E:\n    def __sub__(self, o): return 0\n    def __rsub__(self, o): return 0\ndef f(): return E()",
        "assert abs(f() - 3.14) < 0.01",
    ),
    "order": ("class E:\n    def __lt__(self, o): return True\ndef f(): return E()", "assert f() < 3"),
    "abs shadowed": ("def abs(x): return 0\ndef f(): return 9.0", "assert abs(f() - 3.14) < 0.01"),
    "isinstance shadowed": ("def isinstance(x, t): return True\ndef f(): return 1", "assert isinstance(f(), str)"),
    "math shadowed": (
        "class math:\n    isclose = lambda *a: True\ndef f(): return 9.0",
        "assert math.isclose(f(), 3.14)",
    ),
    "math shadowed where the setup does not import it": (
        "class math:\n    isclose = lambda *a: True\ndef f(): return 9.0",
        "assert math.isclose(f(), 3.14)",
    ),
    "membership": ("class E:\n    def __eq__(self, o): return True\ndef f(): return E()", "assert f() in [1, 2]"),
    "reflected membership": (
        "class E:\n    def __contains__(self, o): return True\n    def __iter__(self): return iter([])\n"
        "def f(): return E()",
        "assert 5 in f()",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_an_object_that_agrees_with_everything_does_not_pass(sandbox: Sandbox, name: str) -> None:
    code, test = FORGERIES[name]
    setup = "import math" if name == "math shadowed" else ""
    assert run(sandbox, code, test, setup=setup).outcome in ("failed", "error")


def test_a_detail_is_one_line_that_any_file_and_terminal_takes(sandbox: Sandbox) -> None:
    verdict = run(sandbox, "def f(): raise ValueError('\\ud800\\x1b[2J\\r\\n\\0\\u202eé')", "assert f() == 1")
    assert verdict.detail == r"ValueError: \ud800\x1b[2J\r \x00\u202eé (test 1 of 1: assert f() == 1)"
    assert verdict.detail.encode()


def test_verdicts_keep_their_order_and_every_end_is_reported(sandbox: Sandbox) -> None:
    programs = [Program(code=f"def f(): return {i % 3}", tests=("assert f() == 0",)) for i in range(9)]
    done: list[int] = []
    verdicts = sandbox.run_all(programs, done.append)
    assert [verdict.passed for verdict in verdicts] == [True, False, False] * 3
    assert sorted(done) == list(range(9))


def test_a_program_of_its_own_time_limit_is_held_to_it(sandbox: Sandbox) -> None:
    slow = Program(code="import time\ndef f(): time.sleep(0.6)", tests=("f()",), timeout_s=0.2)
    assert sandbox.run_all([slow])[0].outcome == "timeout"


def test_a_program_without_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="without tests"):
        Program(code="", tests=())


def test_a_broken_sandbox_is_not_the_programs_failure(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    box = sandbox._box
    broken = Box(
        backend=box.backend,
        argv=("/bin/false",),
        environment={},
        settings=box.settings,
        private_users=box.private_users,
    )
    monkeypatch.setattr(sandbox, "_box", broken)
    assert run(sandbox, "def f(): return 1", "assert f() == 1").outcome == "sandbox_failed"


def _weak(box: Box, num_workers: int) -> Protections:
    return Protections(
        backend=box.backend, network=False, filesystem_writes=True, filesystem_reads=True, processes=True, time=True,
        memory=box.backend != "limits", output=True, environment=True,
    )  # fmt: skip


def test_a_missing_protection_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "probe", _weak)
    with pytest.raises(SandboxError, match="no protection of network") as raised:
        Sandbox.open(SandboxConfig())
    assert "--allow-weak-sandbox" in str(raised.value)


def test_the_least_weak_box_is_taken_when_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "probe", _weak)
    weak = Sandbox.open(SandboxConfig(allow_weak=True))
    assert weak.protections.missing == ("network",)
    assert weak.describe()["missing"] == ["network"]
