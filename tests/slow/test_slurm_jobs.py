"""Experiments as jobs of a real SLURM: from `moe-ray slurm` to COMPLETED, with the answers of a run without SLURM."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moe_ray.clusters.slurm.launcher import LAUNCHER
from moe_ray.clusters.submission import read_submission
from tests.support.slurm_jobs import Job, answers, answers_without_slurm, left_on, submit, write_scripted
from tests.support.slurm_lab import SlurmLab

pytestmark = pytest.mark.slow

CPUS = ("--cpus-per-node", 2, "--memory-per-node", "3G")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The answers of a run on this machine, without SLURM."""
    folder = tmp_path_factory.mktemp("laptop")
    return answers_without_slurm(write_scripted(folder), folder / "results")


@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_a_job_completes_with_the_answers_of_a_run_without_slurm(
    lab: SlurmLab, num_nodes: int, expected: list[dict[str, Any]]
) -> None:
    folder = lab.shared / f"plain-{num_nodes}"
    experiment = write_scripted(folder)
    options = ("--nodes", num_nodes, "--gpus-per-node", 2, "--time", 10, *CPUS)
    job = submit(lab, experiment, folder / "results", *options)
    job.wait()
    assert answers(job) == expected
    assert f"{num_nodes} nodes are ready" in job.log
    assert (job.run / "report.html").is_file()
    status = LAUNCHER.status(job.run, read_submission(job.run))
    assert (status.state, status.exit_code) == ("succeeded", 0)
    for node in lab.nodes:
        assert left_on(lab, node) == []
    assert not list(Path("/tmp").glob(f"mr-{job.id}.*"))


def test_the_token_is_in_no_script_record_process_or_log(lab: SlurmLab) -> None:
    folder = lab.shared / "token"
    experiment = write_scripted(folder, seconds_per_batch=0.3)
    options = ("--nodes", 2, "--time", 10, *CPUS)
    job = submit(lab, experiment, folder / "results", *options, environment={"RAY_AUTH_TOKEN": "shell-secret"})
    job.wait_for_answers(1)
    path = job.run / "slurm" / f"{job.id}.0" / "token"
    token = path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    texts = [
        lab.on("ctl", "scontrol", "show", "job", "-o", job.id).stdout,
        lab.on("ctl", "scontrol", "write", "batch_script", job.id, "-").stdout,
        *(lab.on(node, "ps", "axeww").stdout for node in ("node1", "node2")),
    ]
    job.wait()
    texts += [job.log, *(file.read_text(errors="replace") for file in job.run.rglob("*") if file.is_file())]
    assert not [text for text in texts if token in text or "shell-secret" in text]
    assert not path.exists()


def test_two_jobs_share_a_node_and_leave_foreign_processes_alone(lab: SlurmLab, expected: list[dict[str, Any]]) -> None:
    """The first job ends first; the second one's Ray and a process that only looks like Ray go on."""
    folder = lab.shared / "two"
    with foreign_raylet(lab) as pid:
        quick, slow = write_scripted(folder / "quick"), write_scripted(folder / "slow", seconds_per_batch=3.0)
        options = ("--nodes", 1, "--gpus-per-node", 1, "--time", 10, *CPUS)
        second = submit(lab, slow, folder / "slow-results", *options)
        first = submit(lab, quick, folder / "quick-results", *options)
        first.wait()
        assert second.state == "RUNNING"
        assert second.field("BatchHost") == first.field("BatchHost") == "node1"
        second.wait()
        assert Path(f"/proc/{pid}").exists()
    assert answers(first) == answers(second) == expected
    assert left_on(lab, "node1") == []


@contextmanager
def foreign_raylet(lab: SlurmLab) -> Iterator[int]:
    """A process of somebody else on the first node that has the name of Ray's; gives its id."""
    program = lab.folder / "raylet"
    program.write_text("#!/bin/bash\nwhile :; do sleep 1000 & wait; done\n")
    program.chmod(0o755)
    with subprocess.Popen(lab.command_on("node1", [str(program)]), start_new_session=True) as process:
        yield process.pid
        os.killpg(process.pid, signal.SIGKILL)


STOP = """
import sys
from pathlib import Path
from moe_ray.clusters.slurm.launcher import LAUNCHER
from moe_ray.clusters.submission import read_submission
run = Path(sys.argv[1])
LAUNCHER.stop(run, read_submission(run))
print(LAUNCHER.status(run, read_submission(run)).state)
"""


def test_a_stopped_job_leaves_nothing_and_is_not_started_again(lab: SlurmLab) -> None:
    folder = lab.shared / "stopped"
    job = submit(lab, write_scripted(folder, seconds_per_batch=2.0), folder / "results", "--nodes", 3, *CPUS)
    job.wait_for_answers(1)
    assert lab.on("ctl", sys.executable, "-c", STOP, str(job.run)).stdout == "stopped\n"
    assert job.state == "CANCELLED"
    assert [left_on(lab, node) for node in lab.nodes] == [[], [], []]
    state = job.written_state()
    assert state is not None
    assert (state.phase, state.exit_code, state.will_requeue) == ("ended", 75, False)
    assert lab.on("ctl", "squeue", "-h").stdout == ""
    again = lab.on("ctl", "sbatch", "--parsable", str(job.run / "slurm" / "job.sh")).stdout.strip()
    Job(lab, job.run, again).wait()
    assert "the run is stopped" in Job(lab, job.run, again).log


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--partition", "nope"), "invalid partition specified: nope"),
        (("--time", "3-00:00:00"), "partition main allows at most 1-00:00:00"),
        (("--time", "02:00:00", "--partition", "urgent"), "partition urgent allows at most 01:00:00"),
        (("--gpus-per-node", 9), "Requested node configuration is not available"),
        (("--host", "nowhere.invalid"), "cannot reach nowhere.invalid"),
    ],
)
def test_a_job_that_can_never_start_is_one_message(
    lab: SlurmLab, tmp_path: Path, options: tuple[object, ...], words: str
) -> None:
    experiment = write_scripted(lab.shared / "never")
    done = lab.moe_ray("slurm", experiment, "--results-dir", tmp_path / "results", *options, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


def test_sbatch_takes_the_scripts_of_three_sites(lab: SlurmLab, tmp_path: Path) -> None:
    experiment = write_scripted(lab.shared / "sites")
    sites = sorted((Path(__file__).parents[2] / "cluster" / "slurm").glob("*.yaml"))
    assert len(sites) == 3
    for site in sites:
        done = lab.moe_ray("slurm", experiment, "--nodes", 2, "--gpus-per-node", 2, "--site", site, "--dry-run")
        # This cluster has other partitions, accounts and types of GPUs than the examples.
        script = re.sub(r"#SBATCH --(partition|constraint|qos|mem)=.*\n", "", done.stdout).replace("gpu:a100:", "gpu:")
        (tmp_path / "job.sh").write_text(script)
        tested = lab.on("ctl", "sbatch", "--test-only", str(tmp_path / "job.sh"), check=False)
        assert "to start at" in tested.stderr, tested.stderr
