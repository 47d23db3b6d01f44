"""Ctrl-C from the first moment on: exit code 130, no traceback, nothing left running."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.execution.commands import END_TIMEOUT_S, ROOT, command, family_of, survivors, wait_until
from tests.execution.experiments import scripted, write_experiment

# Sends a signal to the process itself at the moment that it begins to import a module.
STRUCK = """
import os, signal, sys

class Marker:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(number))

module, number, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Marker())
from moe_ray.entry import main
main()
"""
MODULES = ("moe_ray.cli.main", "typer", "rich.console", "yaml", "pydantic", "pyarrow", "moe_ray.runs.evaluate", "ray")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", MODULES)
def test_a_signal_during_any_import_ends_the_command_silently(
    module: str, number: signal.Signals, tmp_path: Path
) -> None:
    experiment = write_experiment(tmp_path, {"m": scripted()})
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, module, str(int(number)), "evaluate", str(experiment.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_TIMEOUT_S * 2,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, ""), done.stdout


@pytest.mark.slow
def test_ctrl_c_while_ray_starts_leaves_no_process(tmp_path: Path, short_folder: Path) -> None:
    experiment = write_experiment(tmp_path, {"m": scripted()}, runtime={"temp_dir": str(short_folder)})
    with command("evaluate", str(experiment.path)) as process:
        wait_until(lambda: any(one.name() == "gcs_server" for one in family_of(process)), process)
        family = family_of(process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=END_TIMEOUT_S)
    assert (process.returncode, err) == (130, ""), out
    assert survivors(family) == []
    assert "the same command resumes" in out
