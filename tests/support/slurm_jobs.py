"""Experiments as jobs of a `SlurmLab`: submitted on its login node, watched, and compared with a run without SLURM."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_ray.clusters.slurm.life import LifeRecord, LifeState, lives_of, read_record, state_path
from moe_ray.clusters.submission import read_submission
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import content, scripted, write_experiment
from tests.support.slurm_lab import SlurmLab, lab_environment, wait_until

JOB_TIMEOUT_S = 480.0
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
# What must not be left on a node: Ray's processes, and those of the run.
LEFTOVERS = ("raylet", "gcs_server", "moe_ray", "ray::", "ray.scripts")


@dataclass(frozen=True)
class Job:
    """A job that was submitted."""

    lab: SlurmLab
    run: Path
    id: str

    @property
    def log(self) -> str:
        """What the job printed."""
        path = self.run / "slurm" / f"job-{self.id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def state(self) -> str:
        """The state in SLURM's words."""
        return self.field("JobState")

    def field(self, name: str) -> str:
        """A field of `scontrol show job`."""
        text = self.lab.on("ctl", "scontrol", "show", "job", "-o", self.id).stdout
        return next((word.partition("=")[2] for word in text.split() if word.startswith(f"{name}=")), "")

    @property
    def num_answers(self) -> int:
        """Answers that are stored."""
        return len(RunDirectory(self.run).done_keys()) if (self.run / "answers").is_dir() else 0

    @property
    def lives(self) -> list[LifeRecord]:
        """The lives of the job, oldest first."""
        return sorted(lives_of(self.run, self.id), key=lambda life: life.restart)

    def wait(self, state: str = "COMPLETED", timeout_s: float = JOB_TIMEOUT_S) -> None:
        """Return when the job is in `state`; fails with its log when it ends otherwise."""
        try:
            wait_until(lambda: self.state in (*OVER, state), f"job {self.id} is {state}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.state}\n{self.log}") from error
        assert self.state == state, f"job {self.id} is {self.state}\n{self.log}"

    def wait_for_answers(self, number: int) -> None:
        """Return when so many answers are stored; fails with the job's log when it ends before."""

        def are_there() -> bool:
            num_answers = self.num_answers
            assert num_answers >= number or self.state not in OVER, f"job {self.id} is {self.state}\n{self.log}"
            return num_answers >= number

        wait_until(are_there, f"{number} answers\n{self.log}", JOB_TIMEOUT_S)

    def written_state(self) -> LifeState | None:
        """What the job's own state file says."""
        return read_record(state_path(self.run), LifeState)


def write_scripted(folder: Path, *, num_examples: int = 24, seconds_per_batch: float = 0.0, **more: Any) -> Path:
    """Write an experiment of two scripted models with a slot on each node; return its path."""
    models = {
        name: scripted(text=f"{name} says yes, of {{id}}", seconds_per_batch=seconds_per_batch) for name in ("a", "b")
    }
    return write_experiment(folder, models, num_examples=num_examples, **more).path


def submit(
    lab: SlurmLab, experiment: Path, results: Path, *options: object, environment: Mapping[str, str] | None = None
) -> Job:
    """Submit an experiment on the login node."""
    done = lab.moe_ray("slurm", experiment, "--results-dir", results, *options, "--json", environment=environment)
    printed = json.loads(done.stdout.splitlines()[-1])
    run = Path(printed["run"])
    assert read_submission(run).id == printed["submission"]["id"]
    return Job(lab, run, printed["submission"]["id"])


def answers_without_slurm(experiment: Path, results: Path) -> list[dict[str, Any]]:
    """The content of the answers of a plain `moe-ray evaluate` on this machine, with models that lose no time."""
    command = [sys.executable, "-m", "moe_ray", "evaluate", str(experiment), "--results-dir", str(results)]
    command += [f"--set=models.{name}.engine_settings.seconds_per_batch=0" for name in ("a", "b")]
    done = subprocess.run(command, env=lab_environment({}), capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return content(RunDirectory(next(results.iterdir())))


def answers(job: Job) -> list[dict[str, Any]]:
    """The content of a job's answers."""
    return content(RunDirectory(job.run))


def left_on(lab: SlurmLab, node: str) -> list[str]:
    """Processes of jobs that are left on a node, without the dead that nothing has collected yet."""
    found = [line for pattern in LEFTOVERS for line in lab.processes(node, pattern)]
    return [line for line in found if "<defunct>" not in line]
