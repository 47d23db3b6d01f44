"""The command, interrupted from outside: it ends soon, says how to go on, and leaves no process."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from moe_ray.execution import interruption
from moe_ray.store.run_directory import RunDirectory
from tests.execution.commands import END_TIMEOUT_S, command, family_of, survivors, wait_until
from tests.execution.experiments import scripted, write_experiment


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "sigterm"])
def test_an_interrupted_command_ends_soon_says_how_to_go_on_and_leaves_nothing(
    how: str, tmp_path: Path, short_folder: Path
) -> None:
    runtime = {"temp_dir": str(short_folder)}
    model = scripted(seconds_per_batch=0.2)
    experiment = write_experiment(tmp_path, {"m": model}, num_examples=400, runtime=runtime)
    run = RunDirectory(tmp_path / "results" / "scripted")
    with command("evaluate", str(experiment.path)) as process:
        wait_until(lambda: list(run.path.glob("answers/*.parquet")), process)
        family = family_of(process)
        assert family
        if how == "ctrl-c":
            # A terminal sends it to every process of the command.
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        out, err = process.communicate(timeout=END_TIMEOUT_S)
    assert process.returncode == 130, out + err
    assert f"What was computed is kept in {run.path}; the same command resumes." in out
    assert err == ""
    assert survivors(family) == []
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
