"""jobs/run.py is every command of `moe-ray`; jobs/moe.py and jobs/evaluate.py are names for some."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, f"jobs/{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_entry_of_jobs_runs_any_command() -> None:
    code, shown = run("run.py", "list", "tasks")
    assert code == 0
    assert "free_text" in shown


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("run.py", ("evaluate", "missing.yaml")), ("evaluate.py", ("missing.yaml",)), ("run.py", ("no-such-command",))],
)
def test_a_mistake_is_two_in_every_entry(script: str, arguments: tuple[str, ...]) -> None:
    code, shown = run(script, *arguments)
    assert code == 2
    assert "remedy" in shown
    assert "Traceback" not in shown
