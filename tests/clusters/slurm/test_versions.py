"""Jobs under the commands and variables of four versions of SLURM, as `tests.support.slurm_shim` emulates them.

The script, the agents and their files are the real ones; Ray is a program that listens and says that it has started.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from moe_ray.clusters.doctor.machine import Machine
from moe_ray.clusters.doctor.slurm import slurm_controller, slurm_kill_wait, slurm_version
from moe_ray.clusters.slurm.deadline import seconds_left
from moe_ray.clusters.slurm.hosts import Host
from moe_ray.clusters.slurm.launcher import LAUNCHER
from moe_ray.clusters.slurm.life import Life, NodeRecord, lives_of, stopped_path
from moe_ray.clusters.slurm.scheduler import SlurmScheduler
from moe_ray.clusters.slurm.script import SlurmRequest
from moe_ray.clusters.slurm.site import SiteConfig
from moe_ray.clusters.slurm.submit import submit
from moe_ray.clusters.submission import Submission
from tests.execution.experiments import scripted, write_experiment
from tests.support.emulated_slurm import EmulatedSlurm
from tests.support.slurm_lab import ROOT, wait_until
from tests.support.slurm_shim import TIME_LIMIT_S, VERSIONS

pytestmark = pytest.mark.slow

RAY = """
import os, signal, socket, sys
def main():
    options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
    if "BREAK_FIRST_LIFE" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
        sys.exit("planted: no object store")
    if "HANG" in os.environ:
        signal.pause()
    if "head" in options:
        server = socket.create_server((options["node-ip-address"], int(options["port"])))
    print("Ray runtime started.", flush=True)
    signal.pause()
"""
GpuRequest = Literal["gres", "gpus-per-node"]
Submit = Callable[..., Submission]
REQUEST = SlurmRequest(nodes=2, gpus_per_node=2, time="01:00:00", cpus_per_node=2, max_failures=1)


@pytest.fixture(params=VERSIONS)
def slurm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedSlurm]:
    emulated = EmulatedSlurm(tmp_path / "slurm", request.param)
    emulated.install()
    for name in [name for name in os.environ if name.startswith(("SLURM", "CUDA", "RAY"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", emulated.path)
    yield emulated
    emulated.stop()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "results" / "scripted"


@pytest.fixture
def submitted(run: Path, tmp_path: Path) -> Iterator[Submit]:
    """Submits a job whose Ray starts at once; `environment` is the site's."""
    scripts = tmp_path / "fake" / "ray" / "scripts"
    scripts.mkdir(parents=True)
    (scripts.parent / "__init__.py").touch()
    (scripts / "__init__.py").touch()
    (scripts / "scripts.py").write_text(RAY)
    experiment = write_experiment(tmp_path, {"a": scripted(text="yes")}, num_examples=2).path
    folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))

    def submit_it(gpu_request: GpuRequest = "gres", **environment: str) -> Submission:
        paths = {"PYTHONPATH": f"{tmp_path / 'fake'}:{ROOT}"}
        site = SiteConfig(temp_dir=folder, gpu_request=gpu_request, environment={**paths, **environment})
        return submit(SlurmScheduler(Host()), REQUEST, site, run, "scripted", ["plan", str(experiment)])

    yield submit_it
    shutil.rmtree(folder)


def log_of(run: Path, job: Submission) -> str:
    return "\n".join(LAUNCHER.logs(run, job, follow=False))


def test_a_job_runs_from_its_submission_to_its_end(slurm: EmulatedSlurm, submitted: Submit, run: Path) -> None:
    """On a site that gives more CPUs than requested, where variables of 23.11 and later contradict each other."""
    job = submitted()
    assert job.id == "17"
    assert slurm.wait_for(job.id) == "COMPLETED", log_of(run, job)
    assert "2 nodes are ready" in log_of(run, job)
    assert LAUNCHER.status(run, job) == ("succeeded", "", 0)
    for rank in range(2):
        node = Life(run, job.id, 0).read(f"node-{rank}.json", NodeRecord)
        assert node is not None
        assert (node.name, node.num_gpus) == (f"node{rank + 1}", 2)
        assert node.num_cpus == min(2, len(os.sched_getaffinity(0)))
    assert {call.split()[0] for call in slurm.calls} == {"sinfo", "sbatch", "squeue", "srun"}
    assert not any("--json" in call for call in slurm.calls)


def test_a_job_that_is_requeued_has_a_second_life(slurm: EmulatedSlurm, submitted: Submit, run: Path) -> None:
    job = submitted("gpus-per-node", BREAK_FIRST_LIFE="1")
    assert slurm.wait_for(job.id) == "COMPLETED", log_of(run, job)
    lives = sorted(lives_of(run, job.id), key=lambda life: life.restart)
    assert [(life.restart, life.end, life.exit_code) for life in lives] == [(0, "failed", 3), (1, "finished", 0)]
    assert "planted: no object store" in log_of(run, job)
    assert "scontrol requeue 17" in slurm.calls


def test_a_job_is_stopped_while_it_starts(slurm: EmulatedSlurm, submitted: Submit, run: Path) -> None:
    job = submitted(HANG="1")
    wait_until(lambda: LAUNCHER.status(run, job).reason == "starting Ray on 2 nodes", "the job starts", 60)
    LAUNCHER.stop(run, job)
    assert slurm.state(job.id) == "CANCELLED"
    assert LAUNCHER.status(run, job).state == "stopped"
    assert slurm.calls[-1] == "squeue -h -t all -S i -j 17 -o %T|%r|%N"
    assert "scancel 17" in slurm.calls


def test_a_job_that_slurm_has_forgotten_keeps_its_end_and_is_never_cancelled(
    slurm: EmulatedSlurm, submitted: Submit, run: Path
) -> None:
    job = submitted()
    assert slurm.wait_for(job.id) == "COMPLETED", log_of(run, job)
    slurm.forget(job.id)
    assert LAUNCHER.status(run, job).state == "succeeded"
    LAUNCHER.stop(run, job)
    assert stopped_path(run).exists()
    assert not any(call.startswith("scancel") for call in slurm.calls)


def test_a_job_whose_squeue_fails_knows_its_end_from_version_23_02_on(
    slurm: EmulatedSlurm, submitted: Submit, run: Path, tmp_path: Path
) -> None:
    slurm.break_command("squeue", "exit 1")
    slurm.break_command(
        "srun", f'echo "$MOE_RAY_TIME_LEFT|$SLURM_JOB_START_TIME|$SLURM_JOB_END_TIME" > {tmp_path}/left'
    )
    job = submitted()
    assert slurm.wait_for(job.id) == "FAILED"
    left, start, end = (tmp_path / "left").read_text().strip().split("|")
    expected = None if slurm.version == "22.05" else TIME_LIMIT_S
    assert (
        seconds_left({"MOE_RAY_TIME_LEFT": left, "SLURM_JOB_START_TIME": start, "SLURM_JOB_END_TIME": end}) == expected
    )


def test_the_doctor_reads_the_settings_of_every_version(slurm: EmulatedSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    machine = Machine.here()
    for look in (slurm_controller, slurm_version, slurm_kill_wait):
        assert list(look(machine)) == []
    assert "scontrol show config" in slurm.calls
