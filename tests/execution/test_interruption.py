"""The command, interrupted from outside: it ends soon, says how to go on, and leaves no process."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from moe_ray.execution import interruption
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import scripted, write_experiment

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 30.0


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for Ray whose sockets' paths stay short."""
    with tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_an_interrupted_command_ends_soon_says_how_to_go_on_and_leaves_nothing(
    how: str, tmp_path: Path, short_folder: Path
) -> None:
    runtime = {"temp_dir": str(short_folder)}
    model = scripted(seconds_per_batch=0.2)
    experiment = write_experiment(tmp_path, {"m": model}, num_examples=400, runtime=runtime)
    run = RunDirectory(tmp_path / "results" / "scripted")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "moe_ray", "evaluate", str(experiment.path)],
        cwd=ROOT,
        env={**kept, "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not list(run.path.glob("answers/*.parquet")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        if how == "ctrl-c":
            # A terminal sends it to every process of the command.
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        out, err = process.communicate(timeout=END_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130, out + err
    assert f"What was computed is kept in {run.path}; the same command resumes." in out
    assert err == ""
    gone, alive = psutil.wait_procs(family, timeout=END_TIMEOUT_S)
    assert alive == [], gone
    assert run.manifest().sessions[-1].status == "interrupted"
    assert 0 < len(run.done_keys()) < 400


def test_an_interrupt_that_was_swallowed_is_raised_at_the_next_step() -> None:
    """Native code and callbacks may lose the exception; the wish to stop stays."""
    handler = signal.getsignal(signal.SIGTERM)
    with interruption.listening():
        interruption.check()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
    interruption.check()
    assert signal.getsignal(signal.SIGTERM) is handler
