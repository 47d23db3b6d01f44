"""The run directory: what is written comes back, whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from moe_ray.domains.example import Example
from moe_ray.errors import RunDirectoryError
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.store.answers import GRADED_COLUMNS, from_table
from moe_ray.store.lock import exclusive
from moe_ray.store.run_directory import RunDirectory, disk_errors
from tests.store.answering import answer


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.prepare()
    return directory


def test_answers_come_back_as_they_were_written(run: RunDirectory) -> None:
    run.write_shard([answer("a"), answer("b")])
    run.write_shard([answer("c")])
    assert sorted(run.answers(), key=lambda row: row.key) == [answer("a"), answer("b"), answer("c")]
    assert run.done_keys() == {"a", "b", "c"}


def test_a_shard_written_twice_is_there_once(run: RunDirectory) -> None:
    run.write_shard([answer("a"), answer("b")])
    run.write_shard([answer("a"), answer("b")])
    assert run.answers_table().num_rows == 2


def test_what_was_committed_here_is_counted_once(run: RunDirectory) -> None:
    RunDirectory(run.path).write_shard([answer("a")])
    assert run.num_committed == 0
    run.write_shard([answer("b"), answer("c")])
    run.write_shard([answer("b"), answer("c")])
    run.write_shard([answer("d")])
    assert run.num_committed == 3


def test_answers_that_lack_columns_are_empty_there_and_nowhere_else(run: RunDirectory) -> None:
    whole = answer("a")
    run.write_shard([whole])
    (found,) = from_table(run.answers_table(GRADED_COLUMNS))
    assert (found.messages, found.token_ids, found.total_s) == ("", None, 0)
    assert all(getattr(found, name) == getattr(whole, name) for name in GRADED_COLUMNS)


def test_examples_come_back_as_they_were_written(run: RunDirectory) -> None:
    prompt = Prompt(
        messages=(Message(role="user", content="Ist é ok?"),), stop=("\n",), choices=(" yes", " no"), reference=" r"
    )
    example = Example(
        id="1", domain="d", prompts={"chat": prompt, "completion": prompt}, reference="r", grading={"gold": "yes"}
    )
    run.write_examples("d", [example])
    assert run.examples("d") == [example]


def test_a_damaged_answer_file_is_named_with_its_remedy(run: RunDirectory) -> None:
    path = run.write_shard([answer("a")])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunDirectoryError, match="delete that file"):
        run.answers()


def test_a_directory_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"manifest\.json is missing"):
        RunDirectory(tmp_path).manifest()


def test_pandas_duckdb_and_datasets_open_the_answers(run: RunDirectory, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas as pd

    run.write_shard([answer("a"), answer("b")])
    run.write_shard([answer("c")])
    files = str(run.path / "answers" / "*.parquet")
    frame = pd.concat([pd.read_parquet(path) for path in (run.path / "answers").glob("*.parquet")])
    assert sorted(frame["key"]) == ["a", "b", "c"]
    with duckdb.connect() as connection:
        counted = connection.execute(f"SELECT count(*), sum(len(token_ids)) FROM '{files}'").fetchall()
    assert counted == [(3, 6)]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["key"]) == ["a", "b", "c"]


def test_a_full_disk_is_an_error_with_a_remedy_and_keeps_what_is_there(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_shard([answer("a")])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(RunDirectoryError, match="No space left on device"), disk_errors(run.path):
        run.write_shard([answer("b")])
    assert run.done_keys() == {"a"}
    assert [path.suffix for path in (run.path / "answers").iterdir()] == [".parquet"]


def test_two_commands_cannot_work_on_one_run_at_once(run: RunDirectory) -> None:
    with (
        exclusive(run),
        pytest.raises(RunDirectoryError, match=f"pid {os.getpid()}"),
        exclusive(RunDirectory(run.path)),
    ):
        pytest.fail("the second command got in")
    with exclusive(run):
        pass
