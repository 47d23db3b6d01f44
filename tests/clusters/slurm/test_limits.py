"""What a node may use, from SLURM's variables."""

import os

import pytest

from moe_ray.clusters.slurm.life import NodeFailedError
from moe_ray.clusters.slurm.limits import MIN_OBJECT_STORE_BYTES, memory_limit, node_limits, visible_gpus

GIB = 1 << 30


def test_slurms_limits_count_and_not_the_machine() -> None:
    environment = {"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "2048", "CUDA_VISIBLE_DEVICES": "2,3"}
    limits = node_limits(environment, wanted_gpus=2)
    assert limits.num_cpus == 1
    assert limits.num_gpus == 2
    assert limits.memory_bytes + limits.object_store_bytes == 2 * GIB
    assert limits.object_store_bytes >= MIN_OBJECT_STORE_BYTES


def test_no_more_cpus_are_declared_than_this_process_may_use() -> None:
    environment = {"SLURM_CPUS_ON_NODE": "100000"}
    assert node_limits(environment, wanted_gpus=0).num_cpus == len(os.sched_getaffinity(0))


def test_memory_is_per_node_or_per_cpu_or_unlimited() -> None:
    assert memory_limit({"SLURM_MEM_PER_NODE": "1024"}, 4) == GIB
    assert memory_limit({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "2"}, 4) == GIB
    assert memory_limit({"SLURM_MEM_PER_NODE": "0"}, 4) is None  # --mem=0 is all there is
    assert memory_limit({}, 4) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [("0", 1), ("0,1", 2), ("GPU-8f,MIG-1", 2), ("", 0), ("NoDevFiles", 0), ("-1", 0), (None, None)],
)
def test_devices_are_counted_as_the_driver_counts_them(value: str | None, number: int | None) -> None:
    assert visible_gpus({} if value is None else {"CUDA_VISIBLE_DEVICES": value}) == number


def test_amd_devices_count_too() -> None:
    assert visible_gpus({"ROCR_VISIBLE_DEVICES": "0,1,2"}) == 3


@pytest.mark.parametrize("environment", [{}, {"SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": "0"}])
def test_other_gpus_than_requested_end_the_job_with_both_numbers(environment: dict[str, str]) -> None:
    with pytest.raises(NodeFailedError, match=r"4 GPUs were requested, and the node offers [01] ") as raised:
        node_limits(environment, wanted_gpus=4)
    assert "gpu_request" in str(raised.value)
