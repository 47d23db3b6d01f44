"""`moe-ray doctor --nodes` on a real Ray cluster of two nodes: one task on each."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.execution.experiments import scripted, write_experiment

pytestmark = pytest.mark.slow

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
options = {"num_cpus": 1, "object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
cluster.add_node(**options)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def environment(short_folder: Path) -> dict[str, str]:
    """The variables of the cluster and of the command, without a user's own."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "HOME": str(short_folder),
        "RAY_TMPDIR": str(short_folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture
def address(environment: dict[str, str]) -> Iterator[str]:
    """The address of a cluster of two nodes, both on this machine."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


def doctor(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moe_ray", "doctor", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)


def test_every_node_of_a_ray_cluster_answers(environment: dict[str, str], address: str, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, {"base": scripted()})
    done = doctor({**environment, "RAY_ADDRESS": address}, experiment.path, "--nodes", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    ((group,),) = [report["groups"]]
    assert (len(set(group["nodes"])), group["findings"]) == (2, [])


def test_a_cluster_that_cannot_be_joined_is_nothing_to_look_at(environment: dict[str, str]) -> None:
    done = doctor({**environment, "RAY_ADDRESS": "127.0.0.1:1"}, "--nodes")
    assert done.returncode == 2
    assert "cannot join a Ray cluster at '127.0.0.1:1'" in done.stderr
