"""What a node may use: SLURM's own limits, because Ray would count the whole machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from moe_ray.clusters.slurm.life import NodeFailedError
from moe_ray.execution.cores import usable_cores

MIB = 1 << 20
# Ray refuses a smaller object store. Runs send little through it: answers and batches of text.
MIN_OBJECT_STORE_BYTES = 80 * MIB
MAX_OBJECT_STORE_BYTES = 2048 * MIB
VISIBLE_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


class NodeLimits(NamedTuple):
    """The resources of this node that belong to the job."""

    num_cpus: int
    num_gpus: int
    memory_bytes: int
    object_store_bytes: int


def node_limits(environment: Mapping[str, str], *, wanted_gpus: int) -> NodeLimits:
    """Return this node's resources.

    Raises `NodeFailedError` where the node does not have `wanted_gpus`, the number that was requested.
    """
    num_cpus = _num_cpus(environment, usable_cores())
    memory = memory_limit(environment, num_cpus) or psutil.virtual_memory().total
    shared = Path("/dev/shm")
    free_shared = psutil.disk_usage(str(shared)).free if shared.is_dir() else MAX_OBJECT_STORE_BYTES
    store = max(MIN_OBJECT_STORE_BYTES, min(memory // 10, free_shared // 2, MAX_OBJECT_STORE_BYTES))
    return NodeLimits(num_cpus, _num_gpus(environment, wanted_gpus), max(memory - store, store), store)


def _num_cpus(environment: Mapping[str, str], num_usable: int) -> int:
    allocated = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE") or ""
    return max(1, min(num_usable, int(allocated))) if allocated.isdigit() else max(1, num_usable)


def memory_limit(environment: Mapping[str, str], num_cpus: int) -> int | None:
    """Return the bytes of memory that SLURM grants on this node; None without a limit."""
    per_node, per_cpu = environment.get("SLURM_MEM_PER_NODE", ""), environment.get("SLURM_MEM_PER_CPU", "")
    if per_node.isdigit() and int(per_node) > 0:
        return int(per_node) * MIB
    if per_cpu.isdigit() and int(per_cpu) > 0:
        on_node = environment.get("SLURM_CPUS_ON_NODE", "")
        return int(per_cpu) * MIB * (int(on_node) if on_node.isdigit() else num_cpus)
    return None


def _num_gpus(environment: Mapping[str, str], wanted: int) -> int:
    """Return the number of GPUs that the step sees, which must be the number that was requested."""
    seen = visible_gpus(environment)
    allocated = environment.get("SLURM_GPUS_ON_NODE", "")
    found = seen if seen is not None else int(allocated) if allocated.isdigit() else 0
    if found != wanted:
        named = next((f"{name}={environment[name]}" for name in VISIBLE_DEVICES if name in environment), "none is set")
        raise NodeFailedError(
            f"{wanted} GPUs were requested, and the node offers {found} "
            f"(SLURM_GPUS_ON_NODE={allocated or 'unset'}, {named})\n"
            "  remedy: check --gpus-per-node, and gpu_request in the site file: gres or gpus-per-node"
        )
    return found


def visible_gpus(environment: Mapping[str, str]) -> int | None:
    """Return the number of devices in the first *_VISIBLE_DEVICES that is set; None where none is."""
    for name in VISIBLE_DEVICES:
        value = environment.get(name)
        if value is not None:
            devices = [one for one in re.split(r"[,\s]+", value.strip()) if one]
            return 0 if value in ("NoDevFiles", "-1") else len(devices)
    return None
