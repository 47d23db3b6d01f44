"""What is known of Ray's head and of the processes of a local cluster."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from moe_ray.execution import ray_calls as liveness
from moe_ray.execution.ray_calls import Diagnosis, LocalProcesses

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process that has a name and does nothing."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(name: str) -> subprocess.Popen[bytes]:
        sleep = shutil.which("sleep")
        assert sleep is not None
        if not (tmp_path / name).exists():
            shutil.copy(sleep, tmp_path / name)
        started.append(subprocess.Popen([tmp_path / name, "600"]))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def closed_port() -> Iterator[str]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def open_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_only_what_was_started_is_ended_also_when_it_is_stopped(start: Start) -> None:
    earlier = start("earlier")
    processes = LocalProcesses()
    raylet, gcs = start("raylet"), start("gcs_server")
    processes.note()
    later = start("later")
    os.kill(raylet.pid, signal.SIGSTOP)
    processes.end()
    assert not any(psutil.pid_exists(process.pid) for process in (raylet, gcs))
    assert earlier.poll() is None
    assert later.poll() is None


def test_a_start_that_was_interrupted_leaves_nothing(start: Start) -> None:
    processes = LocalProcesses()
    half = start("gcs_server")
    processes.end()
    assert not psutil.pid_exists(half.pid)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_core_process_that_ended_is_named_at_once(
    start: Start, open_port: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(liveness, "LOOK_EVERY_S", 0.0)
    processes = LocalProcesses()
    started = {one: start(one) for one in ("raylet", "gcs_server", "python-agent")}
    processes.note()
    diagnosis = Diagnosis(open_port, processes, 60.0)
    started["python-agent"].kill()
    psutil.wait_procs([psutil.Process(started["python-agent"].pid)], timeout=10)
    assert diagnosis(0.0) is None, "Ray can do without its agents"
    started[name].kill()
    # A zombie: Ray never waits for its processes.
    while psutil.Process(started[name].pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert diagnosis(0.0) == f"its process {name} has ended"


def test_a_head_that_refuses_connections_is_given_a_part_of_the_time(
    closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "LOOK_EVERY_S", 0.0)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    diagnosis = Diagnosis(closed_port, LocalProcesses(), 60.0)
    assert diagnosis(0.5) is None, "a call that has only begun says nothing"
    assert diagnosis(2.0) is None
    now[0] += 14.0
    assert diagnosis(16.0) is None
    now[0] += 2.0
    assert diagnosis(18.0) == f"its head at {closed_port} has ended (it refuses connections)"


def test_a_head_that_accepts_connections_may_still_answer(open_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(liveness, "REFUSED_SHARE", 0.0)
    assert Diagnosis(open_port, LocalProcesses(), 60.0)(30.0) is None
