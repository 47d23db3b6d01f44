"""Ray's processes killed or stopped under a run, in the ways that tests/execution/test_ray_failures.py leaves out."""

import signal
from pathlib import Path

import pytest

from tests.execution.ray_failures import RAY_TIMEOUT_S, require_end_by, require_one_message_after


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
