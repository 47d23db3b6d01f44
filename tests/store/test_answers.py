"""The answer table: every text that a model, an API or a data set can bring is stored."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from moe_ray.store.answers import Answer, from_table, to_table
from tests.store.answering import answer

TEXTS = [field.name for field in dataclasses.fields(Answer) if "str" in str(field.type)]


@pytest.mark.parametrize("name", TEXTS)
def test_half_a_character_in_any_text_is_stored_as_a_replacement_character(name: str, tmp_path: Path) -> None:
    changed: dict[str, Any] = {name: "a\ud800\0b"}
    pq.write_table(to_table([dataclasses.replace(answer("k"), **changed)]), tmp_path / "answers.parquet")
    (read,) = from_table(pq.read_table(tmp_path / "answers.parquet"))
    assert getattr(read, name) == "a\ufffd\0b"
