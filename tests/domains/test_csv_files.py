"""CSV as spreadsheets and scripts write it."""

import contextlib
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_ray.domains.sources import DELIMITERS, read_file, read_rows
from moe_ray.errors import DataError

ROWS = [["id", "text"], ["1", "a, b; c | d"], ["2", 'two\r\nlines and "quotes"'], ["3", ""]]


def written(rows: list[list[str]], delimiter: str, **settings: object) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, **settings).writerows(rows)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_header_tells_the_delimiter(delimiter: str, encoding: str, line_end: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(written(ROWS, delimiter, lineterminator=line_end).encode(encoding))
    assert read_file(path) == [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]


@pytest.mark.parametrize("name", ["rows.tsv", "ROWS.TSV"])
def test_a_tsv_file_has_tabs_whatever_its_header_holds(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"id\ttext, or a; b; c\n1\tx\n")
    assert read_file(path) == [{"id": "1", "text, or a; b; c": "x"}]


def test_a_single_column_needs_no_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\none\n\ntwo\n")
    assert read_file(path) == [{"text": "one"}, {"text": "two"}]


def test_a_cell_may_be_a_whole_document_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = tmp_path / "rows.csv"
    path.write_text(f'id,text\n1,"{"x" * 300_000}"\n')
    assert len(read_file(path)[0]["text"]) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "what", "line", "remedy"),
    [
        ("id,label,label\n1,a,b\n", "two columns are called 'label'", 1, "a name of its own"),
        ("id,,\n1,a,b\n", "two columns have no name", 1, "a name of its own"),
        ("id;text\n1;a\n2;b;c\n", "the row has 3 cells and the header 2", 3, "quote cells that hold semicolons"),
        ('id,text\n1,"two\nlines"\n2\n', "the row has 1 cells and the header 2", 4, "commas"),
        ('id,text\n1,"a"b\n', "malformed CSV", 2, "quotes are doubled"),
        ('id,text\n1,"never closed\n', "malformed CSV", 2, "quotes"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(text: str, what: str, line: int, remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=what) as caught:
        read_file(path)
    assert caught.value.where == f"{path}:{line}"
    assert remedy in str(caught.value.remedy)


@settings(derandomize=True, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(DataError):
        assert len({tuple(record) for record in read_rows(text, Path("rows.csv"))}) <= 1
