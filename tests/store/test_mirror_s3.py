"""A mirror on an S3 server (moto's), through s3fs. Skipped where one of the two is not installed.

They are no dependencies of the tests: botocore needs an older python-dateutil than constraints.txt has. With a virtual
environment of `moto[s3] flask flask-cors s3fs pydantic pytest`:
    python -m pytest --noconftest -c /dev/null --rootdir . tests/store/test_mirror_s3.py
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.store.mirror import Mirror
from tests.store.mirrored import CONTENT, pulled, require_nothing_partial_after_a_kill, write, write_run

pytest.importorskip("s3fs")
moto_server: Any = pytest.importorskip("moto.server")

KILLED_MID_UPLOAD = """
import os, signal, sys
from pathlib import Path
from moe_ray.store.mirror import Mirror
mirror = Mirror(sys.argv[1], writer="killed")
put = mirror._put
def killed(source, name, size_bytes):
    put(source, name, size_bytes)
    if "shard-2" in name:
        os.kill(os.getpid(), signal.SIGKILL)
mirror._put = killed
mirror.push(Path(sys.argv[2]))
"""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"runs-{uuid.uuid4()}"  # the server's buckets outlive it in this process
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/some/prefix"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_a_run_directory_goes_to_s3_and_back_and_changes_follow(url: str, run: Path, tmp_path: Path) -> None:
    assert Mirror(url).manifest() is None
    mirror = Mirror(url, writer="a")
    mirror.push(run)
    assert pulled(url, tmp_path / "one") == CONTENT
    write(run, "answers/merged.parquet", "merged")
    (run / "answers/shard-1.parquet").unlink()
    for number in range(3):
        write(run, "log.txt", str(number))
        mirror.push(run)
    assert pulled(url, tmp_path / "two") == {
        "manifest.json": "{}",
        "answers/merged.parquet": "merged",
        "log.txt": "2",
    }
    assert not [name for name in mirror._fs.find(mirror._prefix) if "shard-1" in name]


def test_a_process_killed_in_the_middle_of_an_upload_leaves_nothing_partial(
    url: str, run: Path, tmp_path: Path
) -> None:
    require_nothing_partial_after_a_kill(url, run, tmp_path / "home", KILLED_MID_UPLOAD)


def test_an_upload_that_fails_leaves_the_mirror_as_it_was(
    url: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(url, writer="a")
    mirror.push(run)
    write(run, "answers/shard-2.parquet", "two")
    monkeypatch.setattr(mirror, "_put", lambda *_arguments: (_ for _ in ()).throw(OSError("connection lost")))
    with pytest.raises(RunDirectoryError, match="connection lost"):
        mirror.push(run)
    assert "answers/shard-2.parquet" not in pulled(url, tmp_path / "home")


def test_a_bucket_that_is_not_there_is_said_in_one_message(url: str, run: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be used"):
        Mirror("s3://no-such-bucket/prefix", writer="a").push(run)


def test_two_writers_of_one_mirror_are_noticed(url: str, run: Path, tmp_path: Path) -> None:
    first, second = Mirror(url, writer="first"), Mirror(url, writer="second")
    first.pull(tmp_path / "a", on_progress=lambda _path: None)
    second.push(run)
    with pytest.raises(RunDirectoryError, match="second wrote generation 1"):
        first.push(run)
