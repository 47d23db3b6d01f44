"""Damaged experiment files and data files: each is read, or refused in words."""

import json
import tempfile
from pathlib import Path

import pandas as pd
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.commands import nothing_lost, require_plain_end
from tests.fuzz.damage import damaged_bytes, damaged_json, damaged_json_lines, damaged_value
from tests.fuzz.inputs import EXPERIMENT, LINES, ROWS

YAML = yaml.safe_dump(EXPERIMENT, sort_keys=False).encode()
TABLE = pd.DataFrame(ROWS)


def plan_with(name: str, content: bytes, experiment: bytes = YAML, *, source: str = "rows.jsonl") -> None:
    """Plan the experiment with one file damaged; `source` is the data file that it names."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "rows.jsonl").write_bytes(LINES)
        (here / "experiment.yaml").write_bytes(experiment.replace(b"rows.jsonl", source.encode()))
        (here / name).write_bytes(content)
        with nothing_lost(here):
            require_plain_end("plan", str(here / "experiment.yaml"))


@given(damaged_bytes(YAML))
def test_a_damaged_experiment_file_is_refused_or_read(content: bytes) -> None:
    plan_with("experiment.yaml", content)


@given(damaged_value(EXPERIMENT))
def test_an_experiment_of_wrong_values_is_refused_or_read(text: str) -> None:
    plan_with("experiment.yaml", text.encode("utf-8", "surrogatepass"))


@given(damaged_json_lines(LINES))
def test_damaged_json_lines_are_refused_or_read(content: bytes) -> None:
    plan_with("rows.jsonl", content)


@given(damaged_json(json.dumps(ROWS).encode()))
def test_a_damaged_json_file_is_refused_or_read(content: bytes) -> None:
    plan_with("rows.json", content, source="rows.json")


@given(damaged_bytes(TABLE.to_csv(index=False).encode()))
def test_a_damaged_csv_file_is_refused_or_read(content: bytes) -> None:
    plan_with("rows.csv", content, source="rows.csv")


@given(damaged_bytes(TABLE.to_parquet()))
def test_a_damaged_parquet_file_is_refused_or_read(content: bytes) -> None:
    plan_with("rows.parquet", content, source="rows.parquet")


@given(damaged_json(json.dumps([row["id"] for row in ROWS]).encode()) | st.binary(max_size=50))
def test_a_damaged_file_of_ids_is_refused_or_read(content: bytes) -> None:
    plan_with("ids.json", content, YAML.replace(b"split: test", b"ids_file: ./ids.json"))
