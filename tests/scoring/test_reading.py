"""Settings of how answers are read, and the time that reading takes whatever a model wrote."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_ray.errors import ConfigError
from moe_ray.scoring.decisions import DecisionSettings, after_decision, read_choice
from moe_ray.scoring.numbers import NumberSettings, read_number
from moe_ray.scoring.reading import MAX_TIMEOUTS, PatternSearch, boxed, json_value, last_line, parsed
from moe_ray.scoring.samples import UnscorableError

LETTERS = ("A", "B", "C", "D")
WORDS = ("yes", "no")


@pytest.mark.parametrize(
    ("kind", "given", "what", "key"),
    [
        (DecisionSettings, {"raed": "boxed"}, "no such setting", ".raed"),
        (DecisionSettings, {"read": "box"}, "Input should be 'auto'", ".read.0"),
        (DecisionSettings, {"read": []}, "at least 1 item", ".read"),
        (DecisionSettings, {"read": "last"}, "does not know the way last", ""),
        (NumberSettings, {"read": "first"}, "does not know the way first", ""),
        (DecisionSettings, {"read": "pattern"}, "go together", ""),
        (DecisionSettings, {"read": "boxed", "pattern": "(a)"}, "go together", ""),
        (DecisionSettings, {"pattern": "(a"}, "not a regular expression", ".pattern"),
        (DecisionSettings, {"pattern": "a"}, "has 0 groups", ".pattern"),
        (DecisionSettings, {"pattern": "(a)(b)"}, "has 2 groups", ".pattern"),
        (DecisionSettings, {"pattern": "(a+)+$"}, "repeats a group that itself repeats", ".pattern"),
        (DecisionSettings, {"pattern": "((?:a|b*)*)c"}, "repeats a group that itself repeats", ".pattern"),
        (DecisionSettings, {"pattern": "(?:(?:x{2,})y){3,}(a)"}, "repeats a group that itself repeats", ".pattern"),
        (DecisionSettings, {"pattern": "x" * 2000}, "at most 1000 characters", ".pattern"),
        (DecisionSettings, {"key": ""}, "at least 1 character", ".key"),
        (DecisionSettings, {"pattern": 3}, "valid string", ".pattern"),
    ],
)
def test_wrong_settings_are_refused_at_their_key(kind: Any, given: dict[str, Any], what: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(kind, given, where="domains.d.graders.0.settings")
    assert what in caught.value.what
    assert caught.value.where == f"domains.d.graders.0.settings{key}"


@pytest.mark.parametrize("pattern", [r"\((a+)\)*", "[(+*](a)+", r"(\d+),?\d*", "(?:ab){3}(c)", r"(?i)verdict:\s*(\w+)"])
def test_patterns_that_take_linear_time_are_taken(pattern: str) -> None:
    assert DecisionSettings(pattern=pattern).read == ("pattern",)


def test_a_pattern_that_takes_too_long_leaves_answers_unscored_and_is_soon_given_up() -> None:
    search = PatternSearch(r"(.*.*.*.*.*.*)x$")
    for _ in range(MAX_TIMEOUTS):
        search._num_timeouts += 1
    start = time.monotonic()
    with pytest.raises(UnscorableError, match="takes more than 1 s") as caught:
        search.last("a" * 20_000)
    assert not caught.value.failed
    assert time.monotonic() - start < 0.5


def test_a_search_ends_at_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_ray.scoring.reading.PATTERN_TIMEOUT_S", 0.05)
    with pytest.raises(UnscorableError, match=r"takes more than 0\.05 s"):
        PatternSearch(r"(.*.*.*.*.*.*)x$").last("a" * 20_000 + "xb")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{a} then \boxed{b}", "b"),
        (r"\boxed{\text{yes}}", "yes"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\boxed {7}$", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{7", None),
        (r"\boxed 7", None),
        ("boxed{7}", None),
    ],
)
def test_the_last_box_is_read_with_its_braces_balanced(text: str, content: str | None) -> None:
    assert boxed(text) == content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"answer": "B"}', "B"),
        ('A first: {"answer": "A"} then {"answer": "B"}', "B"),
        ('{"answer": 3}', "3"),
        ('{"answer": true}', "true"),
        ('{"answer": {"deep": 1}}', None),
        ('{"other": "B"}', None),
        ('{"answer": "B", "why": "cut off', "B"),
        ('{"answer": B}', "B"),
        ("{" * 3000, None),
        ('{"a":' * 3000, None),
        ("[" * 100_000 + '{"answer": "B"}', "B"),
    ],
)
def test_the_last_object_with_the_key_is_read_broken_or_not(text: str, value: str | None) -> None:
    assert json_value(text, "answer") == value


def test_the_last_line_is_the_last_with_a_letter_or_a_digit() -> None:
    assert last_line("one\n two \n```\n\n") == "two"
    assert last_line("\n--\n") == ""


def test_an_article_at_the_beginning_is_no_decision_to_be_cut_off() -> None:
    assert after_decision("A patient has it.", LETTERS) == "A patient has it."
    assert after_decision("A. A patient has it.", LETTERS) == "A patient has it."


@pytest.mark.parametrize("spelled", ["B\u0130LL\u0130NG", "b\u0131ll\u0131ng", "\u212a", "stra\u00dfe", "STRASSE"])
def test_a_choice_spelled_with_letters_of_odd_cases_ends_nothing(spelled: str) -> None:
    choices = ("billing", "K", "strasse")
    ways: Any = ["boxed", "answer_is", "first", "last_line", "json", "pattern"]
    every = DecisionSettings(read=ways, pattern=r"=(\w+)")
    for text in (spelled, f"\\boxed{{{spelled}}}", f"the answer is {spelled}", f"={spelled}"):
        assert read_choice(text, choices, every) in (*choices, None)
        assert read_choice(text, choices, DecisionSettings()) in (*choices, None)


UNITS = (
    "answer is ", "the answer: ", "A ", "(A)", "**", "\\boxed{", "{", '{"answer":', "1,234,", "1,", "9", "answer = ",
    " or B", "is correct ", "####", "\n", " ", "a ", "the answer is \n", "- A) ", "$\\frac{1}{2}$", "1/", "-", "e9",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_reading_a_hostile_text_of_300_kb_takes_no_time(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    start = time.process_time()
    for ending in ("", "B", "1,23"):
        read_choice(text + ending, LETTERS, DecisionSettings())
        read_choice(text + ending, WORDS, DecisionSettings(read=("boxed", "json", "answer_is", "last_line")))
        read_number(text + ending, NumberSettings())
        read_number(text + ending, NumberSettings(read=("boxed", "json", "answer_is", "last_line")))
    assert time.process_time() - start < 5


@given(st.lists(st.sampled_from([*UNITS, "B", "yes", "no", "7", "\ud800", "\u0130", "}", '"', "\\text{"]), max_size=40))
@settings(deadline=None)
def test_whatever_is_written_a_choice_or_a_number_or_nothing_is_read(parts: list[str]) -> None:
    text = "".join(parts)
    ways: Any = ["boxed", "json", "answer_is", "last_line", "auto"]
    assert read_choice(text, LETTERS, DecisionSettings(read=ways)) in (*LETTERS, None)
    assert read_choice(text, WORDS, DecisionSettings(read=ways)) in (*WORDS, None)
    read_number(text, NumberSettings(read=ways))
