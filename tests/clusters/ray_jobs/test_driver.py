"""The driver of a job: exit codes, and the mirror of its run directory."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_ray.clusters.ray_jobs import driver
from moe_ray.clusters.ray_jobs.results import JOB_FILE
from moe_ray.store.mirror import Mirror
from moe_ray.store.run_directory import RunDirectory

TIMEOUT_S = 20.0
WRITES_AND_ENDS = "import pathlib, sys; pathlib.Path(sys.argv[1], 'summary.json').write_text('{}'); sys.exit(7)"
WAITS_FOR_GO = """
import pathlib, sys, time
run = pathlib.Path(sys.argv[1])
(run / "answers").mkdir(exist_ok=True)
(run / "answers" / "a.parquet").write_text("rows")
while not (run / "go").exists():
    time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The driver takes the signals of its process, which is the tests' here."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(f"file://{tmp_path / 'store'}", writer="job")


@pytest.fixture
def started(run: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    children: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen([sys.executable, "-c", code, str(run)]))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def wait_for(holds: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def mirrored(mirror: Mirror) -> set[str]:
    manifest = Mirror(mirror.url).manifest()
    return set(manifest.files) if manifest else set()


def test_the_exit_code_of_the_command_is_kept_and_its_results_are_mirrored(
    run: Path, mirror: Mirror, started: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    assert driver._supervise(started(WRITES_AND_ENDS), mirror, run, 30.0) == 7
    assert mirrored(mirror) == {"summary.json"}


def test_answers_are_mirrored_while_the_run_goes_on(
    run: Path, mirror: Mirror, started: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    codes: list[int] = []
    child = started(WAITS_FOR_GO)
    thread = threading.Thread(target=lambda: codes.append(driver._supervise(child, mirror, run, 0.05)))
    thread.start()
    wait_for(lambda: "answers/a.parquet" in mirrored(mirror))
    assert child.poll() is None
    (run / "go").touch()
    thread.join(TIMEOUT_S)
    assert codes == [0]
    assert "go" in mirrored(mirror)


def test_a_mirror_that_another_job_took_ends_this_one(
    run: Path, mirror: Mirror, tmp_path: Path, started: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    mirror.pull(run, on_progress=lambda _path: None)
    Mirror(mirror.url, writer="other").push(tmp_path / "run")
    assert driver._supervise(started(WAITS_FOR_GO), mirror, run, 0.05) != 0


def test_a_success_that_could_not_be_mirrored_is_no_success(
    run: Path,
    mirror: Mirror,
    started: Callable[[str], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_arguments: Any) -> None:
        raise PermissionError("no credentials")

    monkeypatch.setattr(mirror, "_put", refused)
    assert driver._supervise(started("pass"), mirror, run, 30.0) == 1
    shown = capsys.readouterr().out
    assert "no credentials" in shown
    assert str(run) in shown


def test_a_usage_error_of_the_command_is_two_and_leaves_a_mark(tmp_path: Path) -> None:
    options = ["--results", str(tmp_path), "--name", "run", "--id", "job-1", "--mirror-period-s", "30"]
    assert driver.main([*options, "--", "evaluate", str(tmp_path / "missing.yaml")]) == 2
    assert '"job-1"' in (tmp_path / "run" / JOB_FILE).read_text()
    assert not RunDirectory(tmp_path / "run").exists


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    options = ["--name", "run", "--id", "job-1", "--mirror-period-s", "30", "--", "evaluate", "x.yaml"]
    assert driver.main(["--results", str(tmp_path / "file"), *options]) == 2
    assert driver.main(["--results", "nosuch://bucket", *options]) == 2
    assert "nosuch" in capsys.readouterr().out
