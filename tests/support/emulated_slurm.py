"""SLURM's commands as SLURM 22.05, 23.11, 24.11 and 25.05 answer them, without a cluster: wrappers of `slurm_shim`."""

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support import slurm_shim
from tests.support.slurm_lab import wait_until
from tests.support.slurm_shim import COMMANDS, OVER, EmulatedJob

JOB_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class EmulatedSlurm:
    """The commands of one version, in `bin`, and the jobs that were submitted with them."""

    folder: Path
    version: str

    @property
    def bin(self) -> Path:
        """The folder of the commands, to be put first on the path."""
        return self.folder / "bin"

    @property
    def calls(self) -> list[str]:
        """The commands that were called, with their arguments."""
        return (self.folder / "calls").read_text(encoding="utf-8").splitlines()

    def install(self) -> None:
        """Write the commands."""
        self.bin.mkdir(parents=True)
        (self.folder / "jobs").mkdir()
        (self.folder / "calls").touch()
        for name in COMMANDS.keys() - {"job"}:
            program = [sys.executable, "-IS", slurm_shim.__file__, str(self.folder), self.version, name]
            (self.bin / name).write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n', encoding="utf-8")
            (self.bin / name).chmod(0o755)

    def break_command(self, name: str, script: str) -> None:
        """Have a command do something else."""
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")

    def state(self, job_id: str) -> str:
        """Return the state of a job, in SLURM's words."""
        return EmulatedJob(self.folder, job_id)["state"]

    def wait_for(self, job_id: str) -> str:
        """Return how a job ended."""
        wait_until(lambda: self.state(job_id) in OVER, f"job {job_id} ends", JOB_TIMEOUT_S)
        return self.state(job_id)

    def forget(self, job_id: str) -> None:
        """Remove a job that ended from the controller's memory, as SLURM does after MinJobAge."""
        shutil.rmtree(self.folder / "jobs" / job_id)

    def stop(self) -> None:
        """End every job that runs."""
        for folder in (self.folder / "jobs").iterdir():
            job = EmulatedJob(self.folder, folder.name)
            job["state"] = "CANCELLED"
            job.end_script()

    @property
    def path(self) -> str:
        """A PATH on which these commands come first."""
        return f"{self.bin}:{os.environ['PATH']}"
