"""Ray's head killed or stopped under a run: one message, a prompt end, nothing left, and the same command resumes.

Its raylet, and the other signals, are in tests/slow/test_ray_failures.py.
"""

import signal
from pathlib import Path

from tests.execution.commands import command
from tests.execution.ray_failures import NUM_EXAMPLES, require_end_by, require_one_message_after


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
    assert f"{num_kept} of {NUM_EXAMPLES} answers are there already" in out
    assert len(run.done_keys()) == NUM_EXAMPLES
