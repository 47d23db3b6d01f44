"""Strike Ray's own processes under a run, and check how the run ends."""

import signal
import time
from pathlib import Path

from moe_ray.config.load import LoadedExperiment
from moe_ray.store.run_directory import RunDirectory
from tests.execution.commands import END_TIMEOUT_S, command, family_of, survivors, wait_until
from tests.execution.experiments import scripted, write_experiment

NUM_EXAMPLES = 300
RAY_TIMEOUT_S = 10.0
# Ray gives a silent node up after about a minute by default.
FAST_HEALTH_CHECK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "1000",
}


def _experiment(tmp_path: Path, short_folder: Path) -> tuple[LoadedExperiment, RunDirectory]:
    runtime = {"temp_dir": str(short_folder), "ray_timeout_s": RAY_TIMEOUT_S}
    models = {"m": scripted(seconds_per_batch=0.1)}
    experiment = write_experiment(tmp_path, models, num_examples=NUM_EXAMPLES, runtime=runtime)
    return experiment, RunDirectory(tmp_path / "results" / "scripted")


def require_one_message_after(
    harm: signal.Signals, victim: str, reason: str, tmp_path: Path, short_folder: Path
) -> None:
    """The run ends by itself, soon, with exit code 1 and `reason`; committed answers stay, and no process does."""
    experiment, run = _experiment(tmp_path, short_folder)
    with command("evaluate", str(experiment.path), environment=FAST_HEALTH_CHECK) as process:
        wait_until(lambda: list(run.path.glob("answers/*.parquet")), process)
        family = family_of(process)
        (struck,) = [one for one in family if one.name() == victim]
        struck.send_signal(harm)
        started = time.monotonic()
        out, err = process.communicate(timeout=END_TIMEOUT_S)
    took_s = time.monotonic() - started
    assert process.returncode == 1, out + err
    # What the doctor would have said stands before it where something is to say: another Ray on this machine.
    assert f"\nincomplete: Ray does not answer any more: {reason}" in f"\n{err}", err
    assert "RAY_AUTH_TOKEN" not in err
    assert "run the same command again" in err
    assert "Traceback" not in out + err
    assert survivors(family) == []
    assert took_s < (RAY_TIMEOUT_S + 15)
    assert run.manifest().sessions[-1].status == "failed"
    assert 0 < len(run.done_keys()) < NUM_EXAMPLES


def require_end_by(
    wish: signal.Signals, victim: str, tmp_path: Path, short_folder: Path
) -> tuple[LoadedExperiment, RunDirectory]:
    """The command ends soon after the signal `wish` though `victim` is stopped, and no process of it is left."""
    experiment, run = _experiment(tmp_path, short_folder)
    with command("evaluate", str(experiment.path), "--set", "runtime.ray_timeout_s=600") as process:
        wait_until(lambda: list(run.path.glob("answers/*.parquet")), process)
        family = family_of(process)
        (struck,) = [one for one in family if one.name() == victim]
        struck.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        process.send_signal(wish)
        out, err = process.communicate(timeout=END_TIMEOUT_S)
    took_s = time.monotonic() - started
    assert process.returncode == 130, out + err
    assert "the same command resumes" in out
    assert took_s < 15
    assert survivors(family) == []
    assert 0 < len(run.done_keys()) < NUM_EXAMPLES
    return experiment, run
