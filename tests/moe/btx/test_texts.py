"""Which of an expert's texts are held out: the same share of each source, by a hash, wherever a text stands."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from moe_ray.moe.btx.request import TextsConfig
from moe_ray.moe.btx.texts import ExpertTexts, read_expert_texts
from tests.domains.records import write_jsonl

WORDS = ("court", "seller", "party", "claim", "breach", "damages", "clause", "notice", "loan", "lease", "heir", "tort")


def texts_of(kind: str, num: int) -> list[str]:
    """Texts that begin with their kind and share hardly anything else."""
    draw = random.Random(kind)
    return [" ".join([kind, *(f"{draw.choice(WORDS)}{draw.randrange(1000)}" for _ in range(12))]) for _ in range(num)]


def read(folder: Path, sources: Sequence[Sequence[str]], *, share: float = 0.25) -> ExpertTexts:
    """The texts of an expert of these sources; another expert stands beside it."""
    files = []
    for at, texts in enumerate([*sources, texts_of("other", 8)]):
        files.append(f"./{at}.jsonl")
        write_jsonl(folder / f"{at}.jsonl", [{"text": text} for text in texts])
    experts = {
        "law": [TextsConfig(source=file) for file in files[:-1]],
        "other": [TextsConfig(source=files[-1])],
    }
    return read_expert_texts(experts, folder, held_out_fraction=share)["law"]


def counts(texts: Sequence[str]) -> dict[str, int]:
    kinds = [text.split()[0] for text in texts]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def test_an_expert_holds_out_texts_of_all_its_sources_in_proportion(tmp_path: Path) -> None:
    found = read(tmp_path, [texts_of("first", 400), texts_of("second", 200), texts_of("third", 8)], share=0.1)
    held_out, train = counts(found.held_out), counts(found.train)
    assert {kind: held_out[kind] + train[kind] for kind in train} == {"first": 400, "second": 200, "third": 8}
    assert 25 <= held_out["first"] <= 55
    assert 10 <= held_out["second"] <= 30
    assert 1 <= held_out["third"] <= 3


def test_where_a_text_or_a_source_stands_decides_nothing(tmp_path: Path) -> None:
    sources = [texts_of("first", 30), texts_of("second", 20)]
    before = read(tmp_path, sources)
    write_jsonl(tmp_path / "0.jsonl", [{"text": text} for text in reversed(sources[0])])
    experts = {"law": [TextsConfig(source="./1.jsonl"), TextsConfig(source="./0.jsonl")]}
    after = read_expert_texts({**experts, "other": [TextsConfig(source="./2.jsonl")]}, tmp_path, held_out_fraction=0.25)
    assert (after["law"].train, after["law"].held_out) == (before.train, before.held_out)


def test_a_text_stays_where_it_is_when_others_come(tmp_path: Path) -> None:
    some = texts_of("first", 60)
    before, after = (read(tmp_path, [texts]) for texts in (some[:40], some))
    assert set(before.held_out) <= set(after.held_out)
    assert set(before.train) <= set(after.train)


@pytest.mark.parametrize("sizes", [(2,), (1, 1), (1, 3), (3, 1, 1), (1, 1, 1, 1), (2, 2)])
def test_there_is_something_to_train_on_and_something_held_out_however_few_texts_there_are(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    for share in (0.01, 0.5, 0.99):
        found = read(tmp_path, [texts_of(f"kind{at}", num) for at, num in enumerate(sizes)], share=share)
        assert len(found.train) + len(found.held_out) == sum(sizes)
        assert found.train
        assert found.held_out
