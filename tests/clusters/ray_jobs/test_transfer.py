"""Copying results through jobs that print them: whole, verified, continued. The sender runs in this process."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_ray.clusters.ray_jobs import send, transfer
from moe_ray.clusters.ray_jobs.access import JobsAddress
from moe_ray.clusters.ray_jobs.client import JobsClient, JobsUnreachableError
from moe_ray.clusters.ray_jobs.results import all_files, write_mark
from moe_ray.clusters.submission import Submission
from moe_ray.errors import UserError

ID = "moe-ray-run-0-1"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 1000)
    monkeypatch.setattr(transfer, "BATCH_BYTES", 2500)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A run directory on the cluster."""
    run = tmp_path / "cluster" / "run"
    write_mark(run, ID)
    (run / "answers").mkdir()
    (run / "answers" / "a.parquet").write_bytes(random.Random(0).randbytes(3700))
    (run / "summary.json").write_text("{}")
    (run / "empty.txt").write_text("")
    return run


@pytest.fixture
def submission(there: Path) -> Submission:
    return Submission(
        kind="ray-job",
        id=ID,
        target="http://localhost:1",
        command=("evaluate",),
        submitted_at="2026-01-01T00:00:00Z",
        details={"results": str(there), "python": "python"},
    )


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Run the sender in place of a job; holds the paths of the pieces that each job printed."""
    printed: list[list[str]] = []

    def run_here(_client: JobsClient, submission: Submission, pieces: list[send.FilePiece]) -> list[str]:
        path = tmp_path / "pieces.json"
        path.write_bytes(send.PIECES.dump_json(pieces))
        capsys.readouterr()
        assert send.main([submission.details["results"], submission.id, str(path)]) == 0
        printed.append([piece.path for piece in pieces])
        return [line.removeprefix(send.MARK) for line in capsys.readouterr().out.splitlines()]

    monkeypatch.setattr(transfer, "_printed", run_here)
    return printed


@pytest.fixture
def client() -> Iterator[JobsClient]:
    with JobsClient(JobsAddress("http://localhost:1", "localhost")) as one:
        yield one


@pytest.fixture
def copy(client: JobsClient, submission: Submission, tmp_path: Path) -> Callable[..., list[str]]:
    def copied(**options: Any) -> list[str]:
        names: list[str] = []
        chosen = {"wanted": all_files, **options}
        transfer.fetch_by_jobs(client, submission, tmp_path / "home", on_progress=names.append, **chosen)
        return names

    return copied


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_all_files_come_whole_small_ones_first(
    jobs: list[list[str]], copy: Callable[..., list[str]], there: Path, tmp_path: Path
) -> None:
    names = copy()
    assert names[0] == "empty.txt"
    assert names[-1] == "answers/a.parquet"
    assert content(tmp_path / "home") == content(there)
    assert len(jobs) == 3
    assert copy() == []
    assert len(jobs) == 4


def test_a_copy_that_was_cut_off_continues_with_the_rest(
    jobs: list[list[str]], copy: Callable[..., list[str]], there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here: Any = transfer._printed

    def cut_off(client: JobsClient, submission: Submission, pieces: list[send.FilePiece]) -> list[str]:
        if len(jobs) == 2:
            raise JobsUnreachableError("connection lost")
        lines: list[str] = run_here(client, submission, pieces)
        return lines

    monkeypatch.setattr(transfer, "_printed", cut_off)
    with pytest.raises(UserError, match="connection lost"):
        copy()
    assert not (tmp_path / "home/answers/a.parquet").exists()
    monkeypatch.setattr(transfer, "_printed", run_here)
    assert copy() == ["answers/a.parquet"]
    assert content(tmp_path / "home") == content(there)
    assert jobs[-1] == ["answers/a.parquet"] * len(jobs[-1])


def test_a_file_that_changes_meanwhile_does_not_appear(
    jobs: list[list[str]], copy: Callable[..., list[str]], there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here: Any = transfer._printed

    def changing(client: JobsClient, submission: Submission, pieces: list[send.FilePiece]) -> list[str]:
        lines: list[str] = run_here(client, submission, pieces)
        (there / "summary.json").write_text("[]")
        return lines

    monkeypatch.setattr(transfer, "_printed", changing)
    with pytest.raises(UserError, match="changed while it was copied"):
        copy()
    assert not (tmp_path / "home/summary.json").exists()


def test_the_folder_of_another_job_is_not_sent(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mark(there, "another")
    pieces = tmp_path / "pieces.json"
    pieces.write_text("[]")
    assert send.main([str(there), ID, str(pieces)]) == 2
    assert "another" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", ".bashrc"])
def test_a_cluster_cannot_write_outside_the_run_directory(
    copy: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    listed = send.SentFile(path=path, size_bytes=0, sha256="0").model_dump_json()
    monkeypatch.setattr(transfer, "_printed", lambda *_arguments: [listed])
    with pytest.raises(UserError, match="lists the path"):
        copy()


@pytest.mark.parametrize("line", ["", "[]", '{"path": 1}', "\x00"])
def test_what_is_no_list_of_files_is_refused(
    copy: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(transfer, "_printed", lambda *_arguments: [line])
    with pytest.raises(UserError, match="did not come through"):
        copy()
