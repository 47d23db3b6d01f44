"""Mirrors of a run directory: whole or unchanged, verified, resumed, never written by two jobs."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from moe_ray.errors import RunDirectoryError, UserError
from moe_ray.store.mirror import Mirror, is_small
from tests.store.mirrored import CONTENT, pulled, require_nothing_partial_after_a_kill, write, write_run


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid.uuid4().hex}/runs" if request.param == "memory" else f"file://{tmp_path / 'store'}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_what_was_pushed_is_pulled_without_hidden_files(url: str, run: Path, tmp_path: Path) -> None:
    Mirror(url, writer="a").push(run)
    assert pulled(url, tmp_path / "home") == CONTENT


def test_nothing_is_pulled_from_an_empty_place(url: str, tmp_path: Path) -> None:
    assert Mirror(url).manifest() is None
    assert pulled(url, tmp_path / "home") == {}


def test_a_second_push_uploads_only_what_changed_and_removes_what_is_gone(
    url: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(url, writer="a")
    mirror.push(run)
    sent = record_uploads(mirror, monkeypatch)
    write(run, "answers/shard-2.parquet", "two")
    (run / "answers/shard-1.parquet").unlink()
    mirror.push(run)
    assert [name.rsplit(".", 1)[0].rsplit("/", 1)[1] for name in sent] == ["shard-2.parquet", "00000002"]
    assert pulled(url, tmp_path / "home") == {"manifest.json": "{}", "answers/shard-2.parquet": "two"}
    for number in range(3):
        write(run, "log.txt", str(number))
        mirror.push(run)
    assert not [name for name in mirror._fs.find(mirror._prefix) if "shard-1" in name]


def record_uploads(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent: list[str] = []
    put: Any = mirror._put

    def noted(source: Path, name: str, size_bytes: int) -> None:
        sent.append(name)
        put(source, name, size_bytes)

    monkeypatch.setattr(mirror, "_put", noted)
    return sent


def test_a_pull_resumes_with_the_files_that_are_missing(url: str, run: Path, tmp_path: Path) -> None:
    Mirror(url, writer="a").push(run)
    home = tmp_path / "home"
    write(home, "manifest.json", "{}")
    write(home, "answers/shard-1.parquet", "torn")
    copied: list[str] = []
    assert Mirror(url).pull(home, on_progress=copied.append) == 1
    assert copied == ["answers/shard-1.parquet"]
    assert (home / "answers/shard-1.parquet").read_text() == "one"


def test_small_results_come_first_and_may_be_all(url: str, run: Path, tmp_path: Path) -> None:
    write(run, "report.html", "<html>" * 100)
    Mirror(url, writer="a").push(run)
    copied: list[str] = []
    Mirror(url).pull(tmp_path / "home", on_progress=copied.append)
    assert copied == ["manifest.json", "report.html", "answers/shard-1.parquet"]
    Mirror(url).pull(tmp_path / "small", wanted=is_small, on_progress=lambda _path: None)
    assert not (tmp_path / "small/answers").exists()


def test_an_upload_that_fails_leaves_the_mirror_as_it_was(
    url: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(url, writer="a")
    mirror.push(run)
    write(run, "manifest.json", '{"changed": true}')
    write(run, "answers/shard-2.parquet", "two")
    put: Any = mirror._put

    def failing(source: Path, name: str, size_bytes: int) -> None:
        put(source, name, size_bytes)
        if "shard-2" in name:
            raise OSError("connection lost")

    monkeypatch.setattr(mirror, "_put", failing)
    with pytest.raises(RunDirectoryError, match="connection lost"):
        mirror.push(run)
    assert pulled(url, tmp_path / "home") == CONTENT
    Mirror(url, writer="b").push(run)
    assert pulled(url, tmp_path / "later")["answers/shard-2.parquet"] == "two"


def test_a_truncated_manifest_is_passed_over(run: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    Mirror(url, writer="a").push(run)
    whole = (tmp_path / "store/manifests/00000001.json").read_text()
    (tmp_path / "store/manifests/00000002.json").write_text(whole[: len(whole) // 2])
    assert pulled(url, tmp_path / "home")["manifest.json"] == "{}"
    write(run, "log.txt", "resumed")
    assert Mirror(url, writer="b").push(run).generation == 2


def test_a_damaged_object_is_refused_and_nothing_appears(run: Path, tmp_path: Path) -> None:
    Mirror(f"file://{tmp_path / 'store'}", writer="a").push(run)
    (damaged,) = (tmp_path / "store/files/answers").iterdir()
    damaged.write_text("two")
    with pytest.raises(RunDirectoryError, match="not what the manifest lists"):
        pulled(f"file://{tmp_path / 'store'}", tmp_path / "home")
    assert not list((tmp_path / "home/answers").iterdir())


def test_a_push_without_a_change_writes_nothing(url: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(url, writer="a")
    mirror.push(run)
    sent = record_uploads(mirror, monkeypatch)
    assert mirror.push(run).generation == 1
    assert sent == []


def test_two_writers_of_one_mirror_are_noticed(url: str, run: Path, tmp_path: Path) -> None:
    first, second = Mirror(url, writer="first"), Mirror(url, writer="second")
    first.pull(tmp_path / "a", on_progress=lambda _path: None)
    second.pull(tmp_path / "b", on_progress=lambda _path: None)
    second.push(run)
    with pytest.raises(RunDirectoryError, match="second wrote generation 1"):
        first.push(run)
    assert second.push(run).writer == "second"


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", ".hidden"])
def test_a_manifest_of_somebody_else_writes_nothing_outside(tmp_path: Path, run: Path, path: str) -> None:
    url = f"file://{tmp_path / 'store'}"
    manifest = Mirror(url, writer="a").push(run)
    hostile = manifest.model_copy(update={"files": {path: manifest.files["manifest.json"]}, "generation": 2})
    (tmp_path / "store/manifests/00000002.json").write_text(hostile.model_dump_json())
    with pytest.raises(RunDirectoryError, match="lists the path"):
        pulled(url, tmp_path / "home")


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "://x"])
def test_an_address_without_a_file_system_is_refused(url: str) -> None:
    with pytest.raises(UserError):
        Mirror(url)


KILLED_MID_UPLOAD = """
import os, signal, sys
from pathlib import Path
from moe_ray.store.mirror import Mirror
mirror = Mirror(sys.argv[1], writer="killed")
put = mirror._fs.put_file
def half(source, target, **options):
    if "shard-2" in target:
        Path(target).write_bytes(Path(source).read_bytes()[:1])
        os.kill(os.getpid(), signal.SIGKILL)
    put(source, target, **options)
mirror._fs.put_file = half
mirror.push(Path(sys.argv[2]))
"""


def test_a_process_killed_in_the_middle_of_an_upload_leaves_nothing_partial(run: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    require_nothing_partial_after_a_kill(url, run, tmp_path / "home", KILLED_MID_UPLOAD)
