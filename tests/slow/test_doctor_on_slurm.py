"""`moe-ray doctor --nodes` inside an allocation of a real SLURM cluster: one step, equal nodes in one group."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.experiments import experiment, rows
from tests.support.slurm_lab import SlurmLab, lab_environment, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def file(lab: SlurmLab, request: pytest.FixtureRequest) -> Path:
    """An experiment on the shared folder, with its results beside it."""
    folder = lab.shared / str(request.node.name)[:40]
    folder.mkdir()
    config = experiment() | {"output": {"results_dir": str(folder / "results")}}
    (folder / "rows.jsonl").write_text(rows())
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config))
    return folder / "experiment.yaml"


@pytest.fixture
def environment(short_folder: Path) -> dict[str, str]:
    return {"HOME": str(short_folder), "RAY_TMPDIR": str(short_folder)}


def doctor(lab: SlurmLab, environment: Mapping[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command inside an allocation of all nodes."""
    command = [sys.executable, "-m", "moe_ray", "doctor", *map(str, arguments), "--nodes", "--json"]
    return lab.on("ctl", "salloc", "-N3", "--no-kill", *command, check=False, environment=environment)


def groups(done: "subprocess.CompletedProcess[str]") -> dict[tuple[str, ...], list[str]]:
    report: dict[str, Any] = json.loads(done.stdout)
    return {tuple(group["nodes"]): [one["check"] for one in group["findings"]] for group in report["groups"]}


@contextmanager
def on_node(lab: SlurmLab, node: str, plant: str, remove: str) -> Iterator[None]:
    lab.on(node, "bash", "-c", plant)
    try:
        yield
    finally:
        lab.on(node, "bash", "-c", remove)


def test_three_nodes_without_a_fault_are_ready(lab: SlurmLab, file: Path, environment: dict[str, str]) -> None:
    done = doctor(lab, environment, file)
    assert (done.returncode, groups(done)) == (0, {("node1", "node2", "node3"): []}), done.stdout + done.stderr
    assert sorted(path.name for path in file.parent.iterdir()) == ["experiment.yaml", "rows.jsonl"]


def test_a_full_disk_of_one_node_is_its_finding(
    lab: SlurmLab, file: Path, environment: dict[str, str], short_folder: Path
) -> None:
    fill = f"mount -t tmpfs -o size=1m tmpfs {short_folder}; head -c 2000000 /dev/zero > {short_folder}/x 2>&1; true"
    with on_node(lab, "node2", fill, f"umount {short_folder}"):
        done = doctor(lab, environment, file)
    assert groups(done) == {("node1", "node3"): [], ("node2",): ["temp-space"]}
    assert (done.returncode, json.loads(done.stdout)["failing_nodes"]) == (1, ["node2"])


def test_a_node_that_does_not_see_the_results_is_named(lab: SlurmLab, file: Path, environment: dict[str, str]) -> None:
    results = file.parent / "elsewhere"
    results.mkdir()
    with on_node(lab, "node3", f"mount -t tmpfs tmpfs {results}", f"umount {results}"):
        done = doctor(lab, environment, file, "--results-dir", results)
    assert groups(done) == {("node1", "node2"): [], ("node3",): ["shared-folder"]}


def test_a_node_that_lost_its_power_is_silent(lab: SlurmLab, environment: dict[str, str], file: Path) -> None:
    """Last, because the node stays down."""
    script = file.parent / "later.sh"
    command = f"{sys.executable} -m moe_ray doctor {file} --nodes --json"
    script.write_text(f"#!/bin/bash\ntouch {file.parent}/started\nread -r < {file.parent}/go\n{command}\n")
    script.chmod(0o755)
    subprocess.run(["mkfifo", str(file.parent / "go")], check=True)
    allocation = subprocess.Popen(
        lab.command_on("ctl", ["salloc", "-N3", "--no-kill", str(script)]),
        env=lab_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    wait_until((file.parent / "started").exists, "the allocation starts", 30)
    lab.cut_power("node2")
    (file.parent / "go").write_text("go\n")
    shown, _ = allocation.communicate(timeout=120)
    found = {
        tuple(group["nodes"]): [one["check"] for one in group["findings"]] for group in json.loads(shown)["groups"]
    }
    assert found == {("node1", "node3"): [], ("node2",): ["node-silent"]}
