"""Lone surrogates: half characters, which no file in UTF-8 can hold."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moe_ray
from moe_ray.characters import whole_characters

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("plain", "plain"),
        ("naïve \U0001f600", "naïve \U0001f600"),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00\ude00", "\ufffd\U0001f600\ufffd"),
    ],
)
def test_pairs_are_joined_and_halves_are_marked(text: str, whole: str) -> None:
    assert whole_characters(text) == whole


@given(ANY_TEXT)
def test_every_text_becomes_what_utf_16_makes_of_it(text: str) -> None:
    assert whole_characters(text) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.text())
def test_whole_text_stays_as_it_is(text: str) -> None:
    assert whole_characters(text) is text


def test_prompts_and_training_texts_keep_their_question_marks() -> None:
    """Cell keys and trained weights follow from them."""
    assert whole_characters("a\ud800b", "?") == "a\ud800b".encode(errors="replace").decode() == "a?b"


def test_no_other_place_of_the_package_replaces_surrogates() -> None:
    for path in Path(moe_ray.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "encode":
                how = [ast.unparse(argument) for argument in (*node.args, *(word.value for word in node.keywords))]
                assert "'replace'" not in how, f"{path}:{node.lineno}"
