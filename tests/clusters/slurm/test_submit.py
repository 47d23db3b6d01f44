"""Submitting with a fake sbatch: the record, the refusals, and the environment that SLURM stores."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from moe_ray.clusters.slurm.hosts import Host
from moe_ray.clusters.slurm.life import stopped_path
from moe_ray.clusters.slurm.scheduler import SlurmScheduler, submit_environment
from moe_ray.clusters.slurm.script import SlurmRequest
from moe_ray.clusters.slurm.site import SiteConfig
from moe_ray.clusters.slurm.submit import submit
from moe_ray.clusters.submission import Submission, read_submission
from moe_ray.errors import UserError

REQUEST = SlurmRequest(nodes=2, gpus_per_node=1, time="02:00:00")
SINFO = "echo 'main*|1:00:00'; echo 'long|UNLIMITED'"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of fake scheduler commands, first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    fake(folder, "sinfo", SINFO)
    fake(folder, "squeue", "exit 1")
    fake(folder, "sbatch", "echo '17;lab'")
    return folder


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def submitted(run: Path, request: SlurmRequest = REQUEST, partition: str | None = "long") -> Submission:
    site = SiteConfig(partition=partition)
    return submit(SlurmScheduler(Host()), request, site, run, "tiny", ["evaluate", "/x.yaml"])


def test_a_submission_leaves_its_script_and_its_record(commands: Path, tmp_path: Path) -> None:
    run = tmp_path / "results" / "tiny"
    stopped_path(run).parent.mkdir(parents=True)
    stopped_path(run).write_text("")
    found = submitted(run)
    assert (found.id, found.attempt, found.target, found.kind) == ("17", 1, "", "slurm")
    assert read_submission(run) == found
    assert "srun" in (run / "slurm" / "job.sh").read_text()
    assert not stopped_path(run).exists()
    assert submitted(run).attempt == 2


def test_a_run_whose_job_waits_is_not_submitted_again(commands: Path, tmp_path: Path) -> None:
    submitted(tmp_path / "run")
    fake(commands, "squeue", "echo 'PENDING|Priority|'")
    with pytest.raises(UserError, match="job 17 of this run is pending") as raised:
        submitted(tmp_path / "run")
    assert "moe-ray stop" in str(raised.value)


def test_sbatchs_words_and_the_partitions_are_in_the_refusal(commands: Path, tmp_path: Path) -> None:
    words = ("sbatch: error: invalid partition specified: nope", "sbatch: error: Batch job failed")
    fake(commands, "sbatch", "".join(f"echo '{line}' >&2;" for line in words) + " exit 1")
    with pytest.raises(UserError, match="invalid partition specified: nope; Batch job failed") as raised:
        submitted(tmp_path / "run", partition="nope")
    assert "main (01:00:00), long (any time)" in str(raised.value)
    assert not (tmp_path / "run" / "submission.json").exists()


def test_a_time_that_the_partition_never_allows_is_refused_before_sbatch(commands: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"partition main allows at most 01:00:00, not 02:00:00"):
        submitted(tmp_path / "run", partition=None)
    assert not (tmp_path / "run").exists()


def test_a_silent_sinfo_forbids_nothing(commands: Path, tmp_path: Path) -> None:
    fake(commands, "sinfo", "exit 1")
    assert submitted(tmp_path / "run", partition=None).id == "17"


def test_without_slurm_the_message_says_where_to_run_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch: command not found") as raised:
        submitted(tmp_path / "run")
    assert "login node" in str(raised.value)


def test_slurm_stores_no_token_and_no_variable_overrides_the_script() -> None:
    environment = {
        "PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_ID": "1", "SLURM_MEM_PER_NODE": "1",
        "RAY_AUTH_TOKEN": "secret", "RAY_ADDRESS": "other:6379", "SBATCH_TIMELIMIT": "1", "SBATCH_PARTITION": "p",
        "SBATCH_ACCOUNT": "a",
    }  # fmt: skip
    kept = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf"}
    given = "#SBATCH --partition=x\n#SBATCH --account=y\n"
    assert submit_environment(environment, given) == kept
    assert submit_environment(environment, "") == {**kept, "SBATCH_PARTITION": "p", "SBATCH_ACCOUNT": "a"}


def test_an_array_that_the_cluster_never_allows_is_refused_before_sbatch(commands: Path, tmp_path: Path) -> None:
    fake(commands, "scontrol", "echo 'MaxArraySize            = 1001'")
    array = replace(REQUEST, nodes=1, array=1001)
    with pytest.raises(UserError, match="allows arrays of 1000 jobs, not 1001"):
        submitted(tmp_path / "run", array)
    found = submitted(tmp_path / "run", replace(array, array=1000))
    assert found.details["array"] == "1000"
    fake(commands, "scontrol", "exit 1")
    assert submitted(tmp_path / "other", array).id == "17"


def test_an_array_of_which_one_job_runs_is_not_submitted_again(commands: Path, tmp_path: Path) -> None:
    array = replace(REQUEST, nodes=1, array=3)
    submitted(tmp_path / "run", array)
    fake(commands, "squeue", "echo '17_1|COMPLETED|None|node1'; echo '17_2|RUNNING|None|node2'")
    with pytest.raises(UserError, match="job 17 of this run is running"):
        submitted(tmp_path / "run", array)
