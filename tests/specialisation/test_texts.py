"""Texts to trace: ids and draws come from the data, never from positions."""

import json
from pathlib import Path

import pytest

from moe_ray.errors import DataError
from moe_ray.specialisation.texts import SourceText, limit_per_class, read_source_texts, take_shard


def written(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def many(num: int) -> list[dict[str, object]]:
    return [{"text": f"text {at}", "label": "ab"[at % 2]} for at in range(num)]


def test_the_order_of_the_file_changes_nothing(tmp_path: Path) -> None:
    records = many(20)
    forwards = read_source_texts(written(tmp_path / "a.jsonl", records))
    assert forwards == read_source_texts(written(tmp_path / "b.jsonl", records[::-1]))
    assert [text.text_id for text in forwards.texts] == sorted(text.text_id for text in forwards.texts)


def test_repeated_and_blank_texts_are_left_out_and_named(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [*many(3), *many(2), {"text": "  ", "label": "a"}]
    found = read_source_texts(written(tmp_path / "a.jsonl", records))
    assert len(found.texts) == 3
    assert found.notes == ("left out: 2 repeated texts", "left out: 1 blank text")


def test_one_text_of_two_classes_is_two_texts(tmp_path: Path) -> None:
    found = read_source_texts(written(tmp_path / "a.jsonl", [{"text": "x", "label": "a"}, {"text": "x", "label": "b"}]))
    assert [text.label for text in found.texts] in (["a", "b"], ["b", "a"])


def test_a_plain_text_file_has_texts_without_classes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\nmore\n\n\ntwo\n")
    assert {(text.label, text.text) for text in read_source_texts(tmp_path / "a.txt").texts} == {
        ("", "one\nmore"),
        ("", "two"),
    }


def test_another_field_can_name_the_class(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"text": "x", "label": "a", "source": "web", "id": 7}]
    (text,) = read_source_texts(written(tmp_path / "a.jsonl", records), label_key="source").texts
    assert text == SourceText(text_id="7", label="web", text="x")
    with pytest.raises(DataError, match="1 of 1 records have no 'topic'"):
        read_source_texts(tmp_path / "a.jsonl", label_key="topic")


def test_shards_divide_the_texts(tmp_path: Path) -> None:
    texts = read_source_texts(written(tmp_path / "a.jsonl", many(50))).texts
    shards = [take_shard(texts, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(text.text_id for shard in shards for text in shard) == [text.text_id for text in texts]
    assert take_shard(texts, "1/1") == texts


def test_a_limit_draws_by_the_ids_and_a_larger_one_draws_the_same_and_more(tmp_path: Path) -> None:
    texts = read_source_texts(written(tmp_path / "a.jsonl", many(50))).texts
    few, more = limit_per_class(texts, 5), limit_per_class(texts, 9)
    assert set(few) < set(more)
    assert [sum(text.label == label for text in few) for label in "ab"] == [5, 5]
    assert limit_per_class(texts[::-1], 5) == few
