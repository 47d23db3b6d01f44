"""The program in an answer is found, whatever stands around it, in time that grows with the text and no faster."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_ray.domains.programs import parse
from moe_ray.scoring.code import extract_program, fenced_blocks, normalised
from tests.support.sandbox.attacks import ATTACKS

REFERENCE = "def f(x):\n    return x + 1"

EXTRACTED = {
    "a fenced block": ("Sure!\n```python\nx = 1\n```\nThat is it.", "x = 1"),
    "an unclosed block": ("```python\nx = 1\ny = 2", "x = 1\ny = 2"),
    "the first block that parses": ("```python\nx = (\n```\n```python\nx = 2\n```\n```python\nx = 3\n```", "x = 2"),
    "the last when none parses": ("```python\nx = (\n```\n```py\ny = (\n```", "y = ("),
    "Python before untagged": ("```\noutput\n```\n```python\nx = 1\n```", "x = 1"),
    "untagged": ("```\nx = 1\n```", "x = 1"),
    "an indented fence": ("1. Do:\n   ```python\n   x = 1\n   ```", "x = 1"),
    "Windows lines": ("```python\r\nx = 1\r\ny = 2\r\n```", "x = 1\ny = 2"),
    "other languages are not": ("```bash\nls\n```", "```bash\nls\n```"),
    "markers": ("[BEGIN]\nx = 1\n[DONE]\nmore", "x = 1"),
    "only the end marker": ("x = 1\n[DONE]\n```python\ny = 1\n```", "x = 1"),
    "a marker after blanks": ("\n\n [BEGIN]\nx = 1", "x = 1"),
    "plain code": ("def f():\n    return 1\n", "def f():\n    return 1"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("name", EXTRACTED)
def test_the_program_of_an_answer_is(name: str) -> None:
    text, program = EXTRACTED[name]
    assert extract_program(text) == program


@pytest.mark.parametrize("code", ["x = (", "-" * 100_000 + "1", "x = 1\0", "9" * 5000, "x" * 100_001])
def test_no_program_is_none_and_not_an_exception(code: str) -> None:
    assert parse(code) is None
    assert normalised(code) == code


def test_doubtful_escapes_in_a_program_print_no_warning() -> None:
    assert parse(r"x = '\d'") is not None


def test_no_attack_breaks_the_grader_before_it_is_run(tmp_path: Path) -> None:
    for attack in ATTACKS:
        code = attack.program(tmp_path).code
        assert isinstance(normalised(extract_program(f"```python\n{code}\n```")), str)


def test_comments_and_layout_do_not_count_for_equality() -> None:
    other = "# mine\ndef f( x ):\n\n  return (x+1)  # so\n"
    assert normalised(other) == normalised(REFERENCE)
    assert normalised(other.replace("+", "-")) != normalised(REFERENCE)


# The definition of a fenced block, as a pattern that needs quadratic time on a fence with a long line.
FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PIECES = st.sampled_from(
    ["```", "``", "`", "~~~", "\n", "\n\n", " ", "\t", "    ", "python", "PY", "x = 1", "é", "\r", "\x0b"]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_fenced_blocks_are_those_of_the_defining_pattern(text: str) -> None:
    assert fenced_blocks(text) == [(tag.lower(), block) for tag, block in FENCED.findall(text)]
