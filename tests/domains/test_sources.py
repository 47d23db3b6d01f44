import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe_ray.config.schema import DataConfig
from moe_ray.domains.sources import read_source
from moe_ray.errors import DataError, OfflineError
from moe_ray.fingerprint import file_sha256

ROWS = [{"id": "1", "text": 'say "yes", please'}, {"id": "2", "text": "two\nlines and \u2028 a separator"}]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_local_format_gives_the_same_records(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    write(path, ROWS)
    source = read_source(DataConfig(source=f"./rows{suffix}"), tmp_path)
    assert source.records == ROWS
    assert source.origin == {"source": f"./rows{suffix}", "resolved": str(path), "sha256": file_sha256(path)}


def test_an_object_by_id_gives_each_record_its_key(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"11": {"a": 1}, "12": {"a": 2}}')
    records = read_source(DataConfig(source="./rows.json"), tmp_path).records
    assert records == [{"id": "11", "a": 1}, {"id": "12", "a": 2}]


def test_an_object_around_one_list_gives_that_list(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"questions": [{"a": 1}, {"a": 2}]}')
    assert read_source(DataConfig(source="./rows.json"), tmp_path).records == [{"a": 1}, {"a": 2}]


def test_a_hub_data_set_is_asked_for_by_subset_split_and_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked: list[Any] = []
    rows = [{"pubid": 1, "context": {"contexts": ["a", "b"], "labels": ["A", "B"]}}]

    def load_dataset(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        table = datasets.Dataset.from_list(rows)
        table.info.download_checksums = {"hf://datasets/org/set@0123abc/data/test.parquet": {}}
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = DataConfig(source="org/set", subset="full", split="train", revision="main")
    source = read_source(data, tmp_path)
    assert asked == [(("org/set", "full"), {"split": "train", "revision": "main"})]
    assert source.records == rows
    assert source.origin["revision"] == "0123abc"


def test_a_hub_that_does_not_answer_is_asked_once_and_distinguished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its libraries would sleep between their retries, half a minute for each data set."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"it waits {seconds} s for another try")

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("moe_ray.hub.hub_answers", lambda: False)
    monkeypatch.setattr("moe_ray.domains.sources.hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(OfflineError) as caught:
        read_source(DataConfig(source="org/set-that-nobody-has"), tmp_path)
    assert "moe-ray data prepare" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (ConnectionError("Couldn't reach 'org/set' on the Hub"), "moe-ray data prepare"),
        (ValueError("BuilderConfig 'full' not found"), "data.subset"),
        (OSError("401 Client Error: gated"), "hf auth login"),
    ],
)
def test_a_hub_failure_is_reported_with_its_remedy(
    failure: Exception, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def load_dataset(*args: Any, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        read_source(DataConfig(source="org/set"), tmp_path)
    assert str(failure) in caught.value.what
    assert remedy in str(caught.value.remedy)
