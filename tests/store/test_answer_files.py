"""Merged answer files: nothing is lost or doubled, whenever the merge is killed and whoever reads meanwhile."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.store import answers as answer_files
from moe_ray.store.answers import ANSWER_SCHEMA, to_table
from moe_ray.store.run_directory import RunDirectory
from tests.store.answering import answer

NUM_SHARDS = 6


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of six shards of three answers, of two models and two domains each."""
    directory = RunDirectory(tmp_path / "run")
    directory.prepare()
    for shard in range(NUM_SHARDS):
        places = [("big", "law"), ("small", "law"), ("big", "code")]
        directory.write_shard(
            [answer(f"{shard}{at}", model=m, domain=d, text=f"é{shard}\n" * at) for at, (m, d) in enumerate(places)]
        )
    return directory


@pytest.fixture(autouse=True)
def _merge_from_three_files_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_files, "MIN_FILES_TO_MERGE", 3)


def files(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in (run.path / "answers").iterdir())


def content(run: RunDirectory) -> pa.Table:
    return run.answers_table().sort_by("key").combine_chunks()


def test_merging_changes_no_row_no_key_and_no_fingerprint(run: RunDirectory) -> None:
    before, fingerprint = content(run), run.files_fingerprint()
    run.merge_answers()
    (name,) = files(run)
    assert name.startswith("merged-")
    assert content(run).equals(before)
    assert len(run.done_keys()) == before.num_rows == 3 * NUM_SHARDS
    assert run.files_fingerprint() == fingerprint


def test_merging_again_does_nothing(run: RunDirectory) -> None:
    run.merge_answers()
    first = files(run)
    run.merge_answers()
    assert files(run) == first


def test_few_files_stay_as_they_are(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_files, "MIN_FILES_TO_MERGE", NUM_SHARDS + 1)
    before = files(run)
    run.merge_answers()
    assert files(run) == before


def test_large_files_are_not_merged_again(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_files, "SMALL_FILE_BYTES", 1)
    before = files(run)
    run.merge_answers()
    assert files(run) == before


def test_no_merge_holds_more_than_its_limit(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(run)
    size = next((run.path / "answers").iterdir()).stat().st_size
    monkeypatch.setattr(answer_files, "MERGED_BYTES", 2.5 * size)
    run.merge_answers()
    assert len(files(run)) == NUM_SHARDS // 2
    assert content(run).equals(before)


@pytest.mark.parametrize("limit", [1, 8_000, 16_000, 1 << 20])
def test_merging_many_times_loses_nothing_whatever_fits_a_merge(
    run: RunDirectory, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a merged file would be merged with nothing but itself."""
    monkeypatch.setattr(answer_files, "MERGED_BYTES", limit)
    for number in range(4):
        before, fingerprint = content(run), run.files_fingerprint()
        for _ in range(3):
            run.merge_answers()
            assert content(run).equals(before)
            assert run.files_fingerprint() == fingerprint
        run.write_shard([answer(f"new {number}")])


def test_merged_files_and_new_shards_merge_further(run: RunDirectory) -> None:
    fingerprints = set()
    for number in range(4):
        run.merge_answers()
        run.write_shard([answer(f"new {number}")])
        run.write_shard([answer(f"newer {number}")])
        fingerprints.add(run.files_fingerprint())
    before, fingerprint = content(run), run.files_fingerprint()
    run.merge_answers()
    assert len(files(run)) == 1
    assert content(run).equals(before)
    assert run.files_fingerprint() == fingerprint
    assert len(fingerprints) == 4


def test_a_reader_of_one_domain_and_model_may_skip_the_others(run: RunDirectory) -> None:
    run.merge_answers()
    merged = pq.ParquetFile(run.path / "answers" / files(run)[0])
    places = [
        {(row["domain"], row["model"]) for row in merged.read_row_group(at, ["domain", "model"]).to_pylist()}
        for at in range(merged.num_row_groups)
    ]
    assert sorted(places, key=str) == [{("code", "big")}, {("law", "big")}, {("law", "small")}]


KILLED_MERGES = """
import itertools, os, shutil, signal, sys
from pathlib import Path
import pyarrow.dataset
from moe_ray.store import answers as answer_files

answer_files.MIN_FILES_TO_MERGE = 3

def deadly(operation):
    def operate(*arguments, **named):
        global remaining
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        remaining -= 1
        return operation(*arguments, **named)
    return operate

whole = Path(sys.argv[1])
for remaining in itertools.count():
    trial = whole.with_name(f"trial-{remaining}")
    shutil.copytree(whole, trial)
    child = os.fork()
    if not child:
        os.fsync, Path.unlink, Path.replace = deadly(os.fsync), deadly(Path.unlink), deadly(Path.replace)
        answer_files.merge_small_files(trial / "answers")
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status)
    if status == 0:
        break
"""


def test_a_merge_killed_at_any_operation_loses_nothing_and_doubles_nothing(run: RunDirectory) -> None:
    """Trial n is killed before its file operation n; the last one, which has fewer, lives."""
    before, fingerprint = content(run), run.files_fingerprint()
    command = [sys.executable, "-c", KILLED_MERGES, str(run.path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    codes = [int(line) for line in done.stdout.split()]
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) > NUM_SHARDS
    for number in range(len(codes)):
        trial = RunDirectory(run.path.with_name(f"trial-{number}"))
        for _ in range(2):
            assert content(trial).equals(before)
            assert trial.files_fingerprint() == fingerprint
            trial.merge_answers()
        assert len(files(trial)) == 1


def test_a_part_that_outlived_its_merge_counts_once_and_is_deleted_by_the_next(run: RunDirectory) -> None:
    before, fingerprint = content(run), run.files_fingerprint()
    folder = run.path / "answers"
    parts = {path: path.read_bytes() for path in folder.iterdir()}
    run.merge_answers()
    for path, data in list(parts.items())[:4]:
        path.write_bytes(data)
    (folder / ".merged-half.parquet.1.tmp").write_bytes(b"half")
    assert len(files(run)) == 6
    assert content(run).equals(before)
    assert run.files_fingerprint() == fingerprint
    run.merge_answers()
    assert len(files(run)) == 1
    assert content(run).equals(before)


def test_a_reader_that_meets_a_merge_reads_again(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files vanish between the list and the reading."""
    before = content(run)
    read, num_reads = answer_files.read_files, 0

    def read_late(paths: Sequence[Path], *more: object) -> pa.Table:
        nonlocal num_reads
        num_reads += 1
        if num_reads == 1:
            RunDirectory(run.path).merge_answers()
        return read(paths, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("moe_ray.store.run_directory.read_files", read_late)
    assert content(run).equals(before)
    assert num_reads == 2


def test_answers_of_an_earlier_version_keep_their_unknowns(run: RunDirectory) -> None:
    """Their files lack a column that later ones have in every row."""
    for number in range(3):
        table = to_table([answer(f"old {number}")]).drop_columns(
            ["num_truncated_tokens", "reasoning", "num_reasoning_tokens"]
        )
        run.write_shard_table(table)
    before = content(run)
    assert before["num_truncated_tokens"].null_count == 3
    run.merge_answers()
    assert len(files(run)) == 1
    assert content(run).equals(before)
    assert run.answers_table().schema.equals(ANSWER_SCHEMA)


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_damaged_merged_file_is_told_with_its_remedy(run: RunDirectory, damage: object) -> None:
    run.merge_answers()
    path = run.path / "answers" / files(run)[0]
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    for read in (run.answers_table, run.done_keys, run.files_fingerprint, run.merge_answers):
        with pytest.raises(RunDirectoryError, match="delete that file"):
            read()


def test_reading_no_files_does_not_load_pandas() -> None:
    """A plan of a new run reads no answers, and need not wait for pandas."""
    code = "import sys; from moe_ray.store.answers import read_files; read_files([]); print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
