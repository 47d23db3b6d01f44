"""A beginning of a program and an answer make a whole program, in every form that answers have."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_ray.domains.programs import complete, parse

PREFIX = '''\
from math import floor


def half(x):
    return x / 2


def f(x: int) -> int:
    """ Double, then halve.
    >>> f(1)
    1
    """
'''
BODY = "    y = 2 * x\n    if y:\n        y = floor(half(y))\n    return y\n"
CLASS_PREFIX = "class Solution:\n    def f(self, x):\n"


def value(code: str, call: str) -> object:
    scope: dict[str, object] = {}
    exec(code, scope)
    return eval(call, scope)


ANSWERS = {
    "the rest": BODY,
    "the rest after a blank line": f"\n{BODY}",
    "the rest without indentation": textwrap.dedent(BODY),
    "the rest whose first line lost its indentation": BODY.lstrip(),
    "the rest with another indentation": textwrap.indent(textwrap.dedent(BODY), "  "),
    "the rest, indented once more": textwrap.indent(BODY, "    "),
    "the whole": PREFIX + BODY,
    "the whole, indented": textwrap.indent(PREFIX + BODY, "  "),
    "the function alone": "def f(x):\n" + BODY,
    "the function and its own helper": "def half(x):\n    return 0.5 * x\n\n\ndef f(x):\n" + BODY,
    "a function of another form": "f = lambda x: floor(half(2 * x))",
    "a class of the name": "class f(int):\n    pass",
    "a future import": "from __future__ import annotations\ndef f(x):\n    return x",
    "a body with a function of its own": "    def g(y):\n        return y\n    return g(x)\n",
    "one expression": "return floor(half(2 * x))",
}


@pytest.mark.parametrize("form", ANSWERS)
def test_an_answer_completes_the_beginning(form: str) -> None:
    for entry_point in ("f", None):
        assert value(complete(PREFIX, ANSWERS[form], entry_point), "f(7)") == 7


@pytest.mark.parametrize(
    "answer", ["return x + 1", "        return x + 1", "class Solution:\n    def f(self, x): return x + 1"]
)
def test_a_method_is_completed_too(answer: str) -> None:
    assert value(complete(CLASS_PREFIX, answer, "Solution().f"), "Solution().f(1)") == 2


def test_a_beginning_that_ends_within_a_line_is_continued_there() -> None:
    assert value(complete("def f(x): return", " x + 1", "f"), "f(1)") == 2
    assert value(complete("def f(x):", "\n    return x + 1", "f"), "f(1)") == 2
    assert value(complete("def f(x):", "return x + 1", "f"), "f(1)") == 2


def test_a_beginning_of_imports_alone_goes_before_the_answer() -> None:
    assert value(complete("from math import floor\n", "def f(x): return floor(x)", "f"), "f(1.5)") == 1
    assert value(complete("import math\n", "x = math.floor(1.5)", None), "x") == 1


def test_an_answer_without_a_program_is_none() -> None:
    assert parse(complete(PREFIX, "I cannot do that, sorry.", "f")) is None
    assert value(complete(PREFIX, "", "f"), "f(1)") is None


@given(st.text(st.characters(exclude_categories=()), max_size=40), st.text(max_size=40), st.text(max_size=8))
def test_any_texts_are_completed(prefix: str, answer: str, entry_point: str) -> None:
    assert isinstance(complete(prefix, answer, entry_point or None), str)
