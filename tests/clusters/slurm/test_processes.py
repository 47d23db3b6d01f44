"""Programs that wait for their arguments after their imports."""

import os
import subprocess
from pathlib import Path

from moe_ray.clusters.slurm.processes import PreparedProgram
from tests.support.slurm_lab import wait_until

PROGRAM = """
import os, pathlib, sys
pathlib.Path(os.environ["IMPORTED"]).touch()
def main():
    print(sys.argv, os.environ["ADDED"], repr(sys.stdin.read()))
    return 7
"""


def prepared(folder: Path, modules: list[str]) -> PreparedProgram:
    """A program in a working directory whose json.py must not be imported."""
    (folder / "json.py").write_text("raise SystemExit('a file of the working directory was imported')")
    (folder / "packages").mkdir()
    (folder / "packages" / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(folder / "packages"), "IMPORTED": str(folder / "imported")}
    output = (folder / "output").open("wb")
    with output:
        return PreparedProgram(modules, environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder)


def test_a_program_runs_with_the_arguments_that_come_after_its_imports(tmp_path: Path) -> None:
    program = prepared(tmp_path, ["program", "missing_module", "decimal"])
    wait_until(lambda: (tmp_path / "imported").exists(), "the module is imported", 30)
    arguments = ["x", "a b", "c\n\u00f6"]
    process = program.run(arguments, ADDED="yes")
    assert process is not None
    assert process.wait(30) == 7
    assert (tmp_path / "output").read_text(encoding="utf-8") == f"{arguments} yes ''\n"


def test_a_program_that_cannot_be_imported_is_not_run(tmp_path: Path) -> None:
    program = prepared(tmp_path, ["missing_module"])
    output = tmp_path / "output"
    wait_until(lambda: b"No module named 'missing_module'" in output.read_bytes(), "the import fails", 30)
    process = program.run(["x"])
    assert process is None or process.wait(30) == 1  # it ends after it has said why
