"""What printed text may hold. The list of unsafe characters is Unicode's own, not this package's."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_ray.characters import indented, one_line, printable

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
BIDIRECTIONAL_CLASSES = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = {"\u061c", "\u200e", "\u200f"}


def is_unsafe(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in BIDIRECTIONAL_CLASSES
        or character in MARKS
    )


def test_every_character_of_unicode_is_safe_once_printed() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        shown = printable(character)
        if is_unsafe(character) and character not in "\n\t":
            assert shown.isascii(), f"U+{number:04X} is printed as it is"
            assert shown.isprintable(), f"U+{number:04X} is printed as {shown!r}"
        else:
            assert shown == character, f"U+{number:04X} is safe, and is changed to {shown!r}"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred", "\\u001b[31mred"),
        ("\x9b31m", "\\u009b31m"),
        ("abc\rerror: x", "abc\\rerror: x"),
        ("a\x08b", "a\\u0008b"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("file-\udcff.txt", "file-\\udcff.txt"),
        ("one\u2028two", "one\\u2028two"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("Zoë 医学 עברית 👩‍⚕️", "Zoë 医学 עברית 👩‍⚕️"),
    ],
)
def test_an_unsafe_character_is_shown_as_its_escape(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@given(ANY_TEXT)
def test_a_line_is_one_line_however_lines_are_told_apart(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1
    assert one_line(one_line(text)) == one_line(text)


@given(ANY_TEXT)
def test_no_further_line_of_an_indented_text_begins_at_the_margin(text: str) -> None:
    _first, *others = indented(text).split("\n")
    assert all(line == "" or line.startswith(" ") for line in others)
    assert indented(indented(text)) == indented(text)


@given(st.recursive(ANY_TEXT | st.none() | st.integers(), lambda inner: st.lists(inner)))
def test_a_printed_json_document_keeps_its_meaning(value: object) -> None:
    assert json.loads(printable(json.dumps(value, ensure_ascii=True))) == value
