import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import pytest

from moe_ray.domains.loading import hash_rank
from moe_ray.texts.cleaning import Candidate, CleanSource, TextSource, clean
from moe_ray.texts.labelled import LabelledText
from moe_ray.texts.similarity import normal_form
from tests.support.near_duplicates import near_pairs, same_key, similarity
from tests.support.variants import variants


def source(
    label: str,
    texts: Sequence[str],
    *,
    name: str | None = None,
    use: Literal["train", "test"] = "train",
    limit: int | None = None,
    of_run: Sequence[str] = (),
) -> TextSource:
    """A source whose texts have their own beginning as id."""
    candidates = [
        Candidate(
            text=LabelledText(id=f"{name or label}/{text[:60]}", text=text, label=label),
            form=normal_form(text),
            is_of_run=text in of_run,
        )
        for text in texts
    ]
    return TextSource(name=name or label, label=label, use=use, limit=limit, candidates=candidates)


def texts_of(cleaned: Sequence[CleanSource]) -> list[list[str]]:
    return [[text.text for text in each.texts] for each in cleaned]


def plain_clean(labelled: Sequence[tuple[str, str]], run: Sequence[str]) -> set[tuple[str, str]]:
    """What cleaning keeps of (label, text) pairs, by comparing every text with every other."""
    labels: dict[str, set[str]] = {}
    for label, text in labelled:
        labels.setdefault(same_key(text), set()).add(label)
    kept: list[tuple[str, str]] = []
    for label, text in sorted(labelled, key=lambda pair: hash_rank(f"{pair[0]}/{pair[1][:60]}")):
        against = [*run, *(other for _, other in kept)]
        if len(labels[same_key(text)]) == 1 and all(similarity(text, other) < 0.7 for other in against):
            kept.append((label, text))
    return set(kept)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_is_what_comparing_all_with_all_keeps(seed: int) -> None:
    rng, texts = random.Random(seed), variants(160, seed)
    run, rest = texts[:20], texts[20:]
    parts = {"legal": rest[::2], "code": rest[1::2] + rng.sample(rest[::2], 10)}
    cleaned = clean([source(label, part) for label, part in parts.items()], [normal_form(text) for text in run])
    kept = {(each.report.label, text.text) for each in cleaned for text in each.texts}
    assert kept == plain_clean([(label, text) for label, part in parts.items() for text in part], run)
    assert not near_pairs([*(text for _, text in kept), *run]) - near_pairs(run)
    assert len(kept) > 20


def test_the_order_of_the_records_changes_nothing() -> None:
    texts = variants(200, seed=9)
    first = clean([source("legal", texts[:120]), source("code", texts[100:])], [normal_form(texts[0])])
    mixed = [random.Random(1).sample(part, len(part)) for part in (texts[:120], texts[100:])]
    again = clean([source("legal", mixed[0]), source("code", mixed[1])], [normal_form(texts[0])])
    assert texts_of(first) == texts_of(again)
    assert [each.report for each in first] == [each.report for each in again]


def test_every_record_is_kept_or_counted_once() -> None:
    texts = variants(120, seed=3)
    sources = [
        source("legal", [*texts[:60], " ", texts[5].upper()], limit=20, of_run=texts[:3]),
        source("code", texts[55:]),
        source("other", texts[10:20], name="out_of_domain", use="test"),
    ]
    for made, given in zip(clean(sources, [normal_form(texts[70])]), sources, strict=True):
        assert made.report.num_kept == len(made.texts)
        assert made.report.num_kept + sum(made.report.dropped.values()) == made.report.num_records
        assert made.report.num_records == len(given.candidates)


ROWS = "my landlord keeps the deposit of the flat i left"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ROWS, "of the run"),
        (f"  {ROWS.upper()} ", "of the run"),
        (f"{ROWS}?", "nearly of the run"),
        (f"so {ROWS}", "nearly of the run"),
        (" \n\t", "empty"),
    ],
)
def test_what_the_run_asks_is_kept_out_of_the_labels_and_every_out_of_domain_set(text: str, reason: str) -> None:
    sources = [source("legal", [text]), source("other", [text], name="set", use="test")]
    for made in clean(sources, [normal_form(ROWS)]):
        assert made.report.dropped == {reason: 1}


def test_an_example_of_the_run_is_left_out_by_its_id_though_its_text_was_changed() -> None:
    (made,) = clean(
        [source("legal", ["quite another text", "a text"], of_run=["a text"])], [normal_form("the old text")]
    )
    assert [text.text for text in made.texts] == ["quite another text"]
    assert made.report.dropped == {"of the run": 1}


def test_a_text_with_two_labels_goes_and_takes_no_neighbour_with_it() -> None:
    neighbour = f"{ROWS} yesterday"
    own = [source("legal", [ROWS, neighbour]), source("code", [ROWS.title()])]
    legal, code, out_of_domain = clean([*own, source("other", [ROWS], name="set", use="test")], [])
    assert [text.text for text in legal.texts] == [neighbour]
    assert legal.report.dropped == code.report.dropped == out_of_domain.report.dropped == {"two labels": 1}


def test_of_texts_that_are_nearly_the_same_one_stays_whatever_their_labels() -> None:
    made = clean([source("legal", [ROWS]), source("code", [f"{ROWS} !"])], [])
    assert sorted(len(each.texts) for each in made) == [0, 1]
    assert sum((Counter(each.report.dropped) for each in made), Counter[str]()) == {"near duplicate": 1}


def test_an_out_of_domain_set_changes_nothing_about_the_other_texts() -> None:
    texts = variants(80, seed=5)
    own = [source("legal", texts[::2]), source("code", texts[1::2])]
    out_of_domain = source(
        "other", [texts[3], texts[-1].upper(), "not like any of them at all"], name="set", use="test"
    )
    alone, beside = clean(own, []), clean([*own, out_of_domain], [])
    assert texts_of(beside)[:2] == texts_of(alone)
    assert texts_of(beside)[2] == ["not like any of them at all"]
    assert set(beside[2].report.dropped) <= {"duplicate", "near duplicate"}


def test_the_first_out_of_domain_set_does_not_share_a_text_with_the_second() -> None:
    sets = [source("other", [ROWS], name=name, use="test") for name in ("one", "two")]
    assert sorted(map(len, texts_of(clean(sets, [])))) == [0, 1]


def test_a_limit_draws_by_the_hash_of_the_ids_and_limits_are_nested() -> None:
    texts = variants(100, seed=2)
    drawn = {limit: texts_of(clean([source("legal", texts, limit=limit)], []))[0] for limit in (5, 12, None)}
    whole = drawn[None]
    assert drawn[5] == whole[:5]
    assert drawn[12] == whole[:12]
    assert whole == sorted(whole, key=lambda text: hash_rank(f"legal/{text[:60]}"))


def test_what_a_limit_left_out_takes_no_neighbour_with_it() -> None:
    """A text that is not used cannot leak."""
    pair = [ROWS, f"{ROWS} now"]
    others = [f"text number {number} about its own matter {number * 7}" for number in range(50)]
    legal, code = clean([source("legal", [pair[0], *others], limit=1), source("code", [pair[1]])], [])
    assert hash_rank(f"legal/{ROWS}") > min(hash_rank(f"legal/{text}") for text in others)
    assert len(legal.texts) == 1
    assert [text.text for text in code.texts] == [pair[1]]
