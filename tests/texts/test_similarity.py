import os
import subprocess
import sys

import pytest

from moe_ray.texts.similarity import NearIndex, are_near, normal_form, shingles, without_affixes
from tests.support.near_duplicates import near_pairs, similarity
from tests.support.variants import variants


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_sampled", [0, 7, 1000])
def test_the_index_finds_all_near_texts_and_no_others_whatever_its_sample_was(seed: int, num_sampled: int) -> None:
    texts = variants(150, seed)
    index = NearIndex([shingles(text) for text in texts[:num_sampled]])
    found = set()
    for text in texts:
        found |= {tuple(sorted((str(key), text))) for key in index.near(shingles(text))}
        index.add(text, shingles(text))
    expected = near_pairs(texts)
    assert found == expected
    assert 20 < len(expected) < len(texts) * (len(texts) - 1) / 4, "near and far pairs are both there"


@pytest.mark.parametrize(
    ("num_common", "num_all", "near"), [(7, 10, True), (69, 99, False), (70, 100, True), (3, 5, False)]
)
def test_the_bound_is_met_exactly_at_seven_tenths(num_common: int, num_all: int, near: bool) -> None:
    everything = [f"word{number}" for number in range(num_all + 2)]
    longer, shorter = " ".join(everything), " ".join(everything[: num_common + 2])
    assert (similarity(longer, shorter) >= 0.7) is near
    assert are_near(shingles(longer), shingles(shorter)) is near
    assert are_near(shingles(shorter), shingles(longer)) is near
    index = NearIndex([])
    index.add("longer", shingles(longer))
    assert index.near(shingles(shorter)) == (["longer"] if near else [])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is my balance?", "  what IS\tmy\nbalance? "),
        ("caf\u00e9 \ufb01rst", "CAFE\u0301 first"),
        ("Stra\u00dfe", "STRASSE"),
        ("\uff26ull width\u3000text", "full width text"),
    ],
)
def test_unicode_case_and_space_make_no_text_another(first: str, second: str) -> None:
    assert normal_form(first) == normal_form(second)


def test_punctuation_makes_texts_near_and_not_the_same() -> None:
    first, second = normal_form("how do I sort a list?"), normal_form("how do i sort a list")
    assert first != second
    assert are_near(shingles(first), shingles(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("yes", "no"),
        ("sort list", "sort lists"),
        ("reset my password", "reset my card"),
        ("what is my balance", "what is my name"),
        ("???", "!!!"),
        ("\u4f60\u597d\u5417", "\u4f60\u597d\u4e48"),
        ("\N{GRINNING FACE}", "\N{CRYING FACE}"),
    ],
)
def test_short_texts_are_near_only_when_they_are_equal(first: str, second: str) -> None:
    assert not are_near(shingles(normal_form(first)), shingles(normal_form(second)))
    assert are_near(shingles(normal_form(first)), shingles(normal_form(first)))


def test_scripts_without_spaces_are_compared_by_their_characters() -> None:
    text = "\u6211\u7684\u623f\u4e1c\u4e0d\u9000\u8fd8\u62bc\u91d1\u8be5\u600e\u4e48\u529e\u5462"
    assert shingles(text).size == len(text) - 2
    assert are_near(shingles(text), shingles(text + "\u4e86"))
    assert not are_near(shingles(text), shingles(text[::-1]))


def test_shingles_do_not_depend_on_the_seed_of_python_hashes() -> None:
    code = "from moe_ray.texts.similarity import shingles; print(shingles('a few words of a query').tolist())"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{shingles('a few words of a query').tolist()}\n".encode()}


def test_a_very_long_text_and_control_characters_have_shingles() -> None:
    assert shingles(normal_form("word " * 20_000)).size == 1
    assert shingles(normal_form("\x00\x1b[31m \ud800 red")).size == 1


def test_what_all_texts_begin_and_end_with_is_cut_off() -> None:
    prompts = [f"answer this question . {question} begin with yes" for question in ("is it so", "it is so", "why")]
    assert without_affixes(prompts) == ["is it so", "it is so", "why"]


@pytest.mark.parametrize("forms", [[], ["one text"], ["the same", "the same"], ["a b", "c d"]])
def test_texts_without_a_common_template_stay_whole(forms: list[str]) -> None:
    assert without_affixes(forms) == forms


def test_a_text_that_is_only_template_stays_whole() -> None:
    assert without_affixes(["a b", "a x b", "a y b"]) == ["a b", "x", "y"]
