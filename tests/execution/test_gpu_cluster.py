"""Two nodes with declared GPUs (Ray counts them, though none is there): who gets which; what a dead node leaves."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from moe_ray.store.records import ReplicaTelemetry
from moe_ray.store.run_directory import RunDirectory
from tests.execution.experiments import content

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FAST_HEALTH_CHECK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_timeout_ms": "1000",
}
# A connection to Ray is one per process, and this process may have one already.
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu-cluster")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "CUDA_"))}
    environment = {**kept, **FAST_HEALTH_CHECK, "HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.execution.gpu_cluster", str(folder)],
        cwd=ROOT,
        env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def devices(record: ReplicaTelemetry) -> set[tuple[str, str]]:
    assert record.cuda_visible_devices is not None
    return {(record.node, device) for device in record.cuda_visible_devices.split(",")}


def test_replicas_that_work_at_once_share_a_gpu_only_where_their_shares_allow_it(results: Path) -> None:
    run = RunDirectory(results / "shared" / "results" / "scripted")
    rows = run.answers()
    assert len(content(run)) == 4 * 24
    shares = {"wide": 1.0, "whole": 1.0, "half": 0.5, "other-half": 0.5}
    records = run.telemetry()
    for record in records:
        assert len(devices(record)) == (2 if record.model == "wide" else 1)
        assert len({node for node, _ in devices(record)}) == 1
        assert {gpu for _, gpu in devices(record)} == set(record.gpu_ids) <= {"0", "1", "2"}
        assert record.gpu_uuids == [], "declared GPUs are not behind NVML"
    assert len({record.node for record in records}) == 2
    for moment in (row.finished_at for row in rows):
        held: Counter[tuple[str, str]] = Counter()
        for record in records:
            own = [row for row in rows if row.replica == record.replica]
            if min(row.finished_at - row.total_s for row in own) < moment <= max(row.finished_at for row in own):
                held.update(dict.fromkeys(devices(record), shares[record.model]))
        assert all(share <= 1 for share in held.values()), held


def test_what_a_dead_node_had_is_done_on_one_that_joined(results: Path) -> None:
    run = RunDirectory(results / "killed" / "results" / "scripted")
    assert len(content(run)) == 2 * 32
    manifest = run.manifest()
    assert (manifest.sessions[-1].status, manifest.given_up) == ("complete", [])
    lost, *others = [record for record in run.telemetry() if record.model == "second"]
    assert lost.end == "lost"
    assert {record.node for record in others}.isdisjoint({lost.node})
    assert sum(record.num_answers for record in (lost, *others)) == 32
    assert all(record.cuda_visible_devices == "0,1,2" for record in (lost, *others) if record.num_answers)
