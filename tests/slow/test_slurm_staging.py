"""Checkpoints copied to the nodes' own disks by jobs of a real SLURM: the same answers, and one copy on each node."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import content, write_experiment
from tests.support.slurm_jobs import answers, left_on, submit
from tests.support.slurm_lab import SlurmLab, lab_environment
from tests.support.tiny_models import make_tiny_checkpoint

pytestmark = pytest.mark.slow

OPTIONS = ("--nodes", 2, "--time", 10, "--cpus-per-node", 2, "--memory-per-node", "6G")


def in_place(experiment: Path, results: Path) -> list[dict[str, Any]]:
    """The answers of a run on this machine that reads the checkpoints where they are."""
    command = [sys.executable, "-m", "moe_ray", "evaluate", str(experiment), "--results-dir", str(results)]
    done = subprocess.run(command, env=lab_environment({}), capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return content(RunDirectory(next(results.iterdir())))


def write_tiny(folder: Path) -> Path:
    """Write an experiment of two tiny checkpoints; each node has two slots."""
    runtime = {"cpu_slots": 2, "shard_size": 2}
    path = write_experiment(folder, {"a": {}, "b": {}}, num_examples=16, runtime=runtime).path
    experiment = yaml.safe_load(path.read_text(encoding="utf-8"))
    for seed, name in enumerate(("a", "b")):
        checkpoint = make_tiny_checkpoint(folder / name, "llama", seed=seed)
        experiment["models"][name] = {"path": str(checkpoint), "dtype": "float32"}
    path.write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return path


def write_site(path: Path, **staging: Any) -> Path:
    path.write_text(yaml.safe_dump({"staging": staging}), encoding="utf-8")
    return path


def test_jobs_that_copy_checkpoints_give_the_answers_of_a_run_that_does_not(lab: SlurmLab) -> None:
    """The nodes of this cluster share their disk: what is a node's own carries its name."""
    folder = lab.shared / "staging"
    experiment = write_tiny(folder)
    expected = in_place(experiment, folder / "in-place")
    disk = lab.folder / "disk"
    parent = f"{disk}/$SLURMD_NODENAME"

    site = write_site(folder / "removed.yaml", folder=parent)
    job = submit(lab, experiment, folder / "removed", "--site", site, *OPTIONS)
    job.wait()
    assert answers(job) == expected
    assert job.log.count("was copied to") >= 2, job.log
    assert [list(node.iterdir()) for node in disk.iterdir()] == [[], []]

    site = write_site(folder / "kept.yaml", folder=parent, keep=True, max_gib=1)
    jobs = [submit(lab, experiment, folder / f"kept-{number}", "--site", site, *OPTIONS) for number in (1, 2)]
    for job in jobs:
        job.wait()
        assert answers(job) == expected
        assert "is read from where it is" not in job.log
    copies = {node.name: list(node.glob("moe-ray-*/*/manifest.json")) for node in disk.iterdir()}
    assert set(copies) == {"node1", "node2"}
    assert all(len(found) <= 2 for found in copies.values())
    num_made = sum(job.log.count("was copied to") for job in jobs)
    assert num_made == sum(map(len, copies.values())) >= 2
    assert [left_on(lab, node) for node in lab.nodes] == [[], [], []]
