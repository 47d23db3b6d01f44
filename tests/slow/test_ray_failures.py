"""Ray's processes killed or stopped under a run: one message, a prompt end, nothing left, and a resume."""

import signal
from pathlib import Path

import pytest

from tests.execution.commands import command
from tests.execution.ray_failures import NUM_EXAMPLES, RAY_TIMEOUT_S, require_end_by, require_one_message_after

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("victim", "harm", "reason"),
    [
        ("raylet", signal.SIGKILL, "its process raylet has ended"),
        ("gcs_server", signal.SIGSTOP, f"a call has not returned within {RAY_TIMEOUT_S:g} s"),
        ("raylet", signal.SIGSTOP, "the raylet of this machine is stopped or has ended"),
    ],
)
def test_a_run_that_loses_ray_ends_soon_with_one_message_and_leaves_nothing(
    tmp_path: Path, short_folder: Path, victim: str, harm: signal.Signals, reason: str
) -> None:
    require_one_message_after(harm, victim, reason, tmp_path, short_folder)


@pytest.mark.parametrize(
    ("victim", "wish"),
    [("gcs_server", signal.SIGINT), ("raylet", signal.SIGTERM), ("raylet", signal.SIGINT)],
)
def test_a_signal_ends_the_command_soon_though_ray_is_stopped(
    tmp_path: Path, short_folder: Path, victim: str, wish: signal.Signals
) -> None:
    require_end_by(wish, victim, tmp_path, short_folder)


def test_a_run_whose_head_is_killed_ends_at_once_with_one_message(tmp_path: Path, short_folder: Path) -> None:
    require_one_message_after(signal.SIGKILL, "gcs_server", "its process gcs_server has ended", tmp_path, short_folder)


def test_sigterm_ends_the_command_though_the_head_is_stopped_and_the_same_command_resumes(
    tmp_path: Path, short_folder: Path
) -> None:
    experiment, run = require_end_by(signal.SIGTERM, "gcs_server", tmp_path, short_folder)
    num_kept = len(run.done_keys())
    faster = "models.m.engine_settings.seconds_per_batch=0"
    with command("evaluate", str(experiment.path), "--set", faster) as again:
        out, err = again.communicate(timeout=120)
    assert again.returncode == 0, out + err
    assert f"{num_kept} of {NUM_EXAMPLES} answers are already there" in out
    assert len(run.done_keys()) == NUM_EXAMPLES
