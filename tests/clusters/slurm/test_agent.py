"""The agents without SLURM and without Ray: how they wait for each other, and what they leave when they fail."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from moe_ray.clusters.slurm.life import FailedNode, Life, LifeRecord, LifeState, read_record, state_path


def agent(
    run: Path, rank: int, *options: str, prefix: Sequence[str] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the agent of one node of two, until it gives up."""
    command = [*prefix, sys.executable, "-m", "moe_ray.clusters.slurm.agent", str(run), "--ready-timeout=0.5", *options]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RAY", "CUDA"))}
    own = {"SLURM_JOB_ID": "7", "SLURM_NODEID": str(rank), "SLURM_NNODES": "2", "SLURMD_NODENAME": f"n{rank}"}
    return subprocess.run(
        [*command, "--", "evaluate", "x.yaml"], env={**kept, **own, **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_a_node_that_writes_nothing_ends_the_job_and_the_shared_folder_is_suspected(tmp_path: Path) -> None:
    done = agent(tmp_path, 0)
    assert done.returncode == 3, done.stderr
    assert "node number 1 of the job wrote no record: check that all nodes see the run directory" in done.stdout
    life = Life(tmp_path, "7", 0)
    assert life.path("exit_code").read_text() == "3\n"
    assert {"ended", "record.json"} <= life.names()
    assert not {"token", "requeue"} & life.names()
    state = read_record(state_path(tmp_path), LifeState)
    assert state is not None
    assert (state.phase, state.exit_code) == ("ended", 3)


def test_the_log_lines_of_a_node_that_failed_are_in_the_jobs_log(tmp_path: Path) -> None:
    life = Life(tmp_path, "7", 0)
    life.write("failed-1.json", FailedNode(rank=1, name="n1", reason="no disk", log=["line one", "line two"]))
    done = agent(tmp_path, 0)
    assert done.returncode == 3
    assert "n1: no disk\n    line one\n    line two" in done.stdout


def test_a_failure_is_requeued_within_its_budget(tmp_path: Path) -> None:
    agent(tmp_path, 0, "--max-failures=1")
    life = Life(tmp_path, "7", 0)
    assert "requeue" in life.names()
    record = life.read("record.json", LifeRecord)
    assert record is not None
    assert (record.end, record.exit_code) == ("failed", 3)


def test_a_node_that_finds_no_head_says_so_and_ends(tmp_path: Path) -> None:
    assert agent(tmp_path, 1).returncode == 3
    failed = Life(tmp_path, "7", 0).read("failed-1.json", FailedNode)
    assert failed is not None
    assert failed.name == "n1"
    assert "wrote no head.json within 0.5 s" in failed.reason


def test_a_node_leaves_quietly_when_the_job_is_over_before_it_began(tmp_path: Path) -> None:
    life = Life(tmp_path, "7", 0)
    life.mark("ended")
    assert agent(tmp_path, 1).returncode == 0
    assert "failed-1.json" not in life.names()


@pytest.mark.parametrize("rank", [0, 1])
def test_other_gpus_than_requested_are_reported_by_the_node_itself(tmp_path: Path, rank: int) -> None:
    done = agent(tmp_path, rank, "--gpus=4", SLURM_GPUS_ON_NODE="2", CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 3
    failed = Life(tmp_path, "7", 0).read("failed-1.json", FailedNode)
    reason = done.stdout if rank == 0 else failed.reason if failed is not None else ""
    assert "4 GPUs were requested, and the node offers 2" in reason


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path) -> None:
    agent(tmp_path / "run", 0, f"--temp-dir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_disk_that_takes_nothing_is_one_error(tmp_path: Path, rank: int) -> None:
    done = agent(tmp_path, rank, prefix=["bash", "-c", 'ulimit -f 0; exec "$@"', "bash"])
    assert done.returncode == 2
    assert "cannot write: File too large\n  remedy: free disk space" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
