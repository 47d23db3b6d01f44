"""Run the command in a process of its own, with a Ray of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 30.0


@contextmanager
def command(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start `moe-ray ARGUMENTS` in a process group of its own, that is gone at the end."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "moe_ray", *arguments],
        cwd=ROOT,
        env={**kept, "HOME": "/nonexistent", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_until(holds: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Return as soon as `holds`; fails when the process ends before, or not in a patient time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that it started, and theirs."""
    return psutil.Process(process.pid).children(recursive=True)


def survivors(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after a patient time."""
    return psutil.wait_procs(family, timeout=END_TIMEOUT_S)[1]
