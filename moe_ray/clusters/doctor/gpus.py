"""Checks of GPUs: those that are allocated, those that the driver shows, and those that torch can use."""

from collections.abc import Iterator

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import Machine, SilentFactError
from moe_ray.clusters.doctor.packages import installed_version
from moe_ray.formatting import size
from moe_ray.planning.memory import GIB

# A GPU without a process of anyone still has some memory in use by the driver.
IDLE_BYTES = 2 * GIB
NO_DEVICES = ("NoDevFiles", "-1")
CONTAINER_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")


@check("gpu-count", "failure")
def gpu_count(machine: Machine) -> Iterator[Fault]:
    """The GPUs that are visible are not those that are allocated.

    SLURM says in SLURM_GPUS_ON_NODE how many GPUs a job has here; CUDA_VISIBLE_DEVICES lists those that CUDA uses; the
    driver (NVML) shows those that exist. A step that asks for no GPU, or a variable that is set in the shell, makes
    them disagree.
    """
    allocated = machine.variable("SLURM_GPUS_ON_NODE")
    visible = _visible(machine)
    if machine.in_slurm_job and allocated.isdecimal() and visible is not None and len(visible) != int(allocated):
        yield Fault(
            f"SLURM allocated {allocated} GPUs here, and CUDA_VISIBLE_DEVICES lists {len(visible)}",
            f"CUDA_VISIBLE_DEVICES={machine.variable('CUDA_VISIBLE_DEVICES')}",
            f"srun --overlap --gpus-per-node={allocated} nvidia-smi -L",
        )
        return
    readings = machine.gpus()
    absent = [name for name in visible or () if name.isdecimal() and int(name) >= len(readings)]
    if readings and absent:
        yield Fault(
            "CUDA_VISIBLE_DEVICES lists a GPU that this machine does not have",
            f"CUDA_VISIBLE_DEVICES={machine.variable('CUDA_VISIBLE_DEVICES')}, and the driver shows {len(readings)}",
            "unset CUDA_VISIBLE_DEVICES",
        )


@check("gpu-driver", "failure")
def gpu_driver(machine: Machine) -> Iterator[Fault]:
    """The machine has NVIDIA GPUs, and the driver does not answer.

    The kernel module is loaded, but NVML (nvidia-smi) shows no GPU: the driver was updated without a reboot, or a
    container was started without its GPUs.
    """
    try:
        if machine.gpus():
            return
    except SilentFactError:
        yield Fault("the NVIDIA driver does not answer in time", "NVML was asked for the GPUs", "nvidia-smi")
        return
    allocated = machine.variable("SLURM_GPUS_ON_NODE")
    in_container = any(machine.variable(name) for name in CONTAINER_VARIABLES)
    if machine.in_slurm_job and in_container and allocated.isdecimal() and int(allocated):
        yield Fault(
            "GPUs are allocated, and this container sees none",
            f"SLURM_GPUS_ON_NODE={allocated}; the driver shows none",
            "apptainer exec --nv IMAGE nvidia-smi -L",
        )
    elif (machine.root / "proc/driver/nvidia/version").exists():
        yield Fault(
            "the NVIDIA driver is loaded and shows no GPU",
            "/proc/driver/nvidia/version exists; NVML lists no GPU",
            "nvidia-smi",
        )


@check("torch-cuda", "failure")
def torch_cuda(machine: Machine) -> Iterator[Fault]:
    """torch was built without CUDA, and this machine has GPUs.

    Models would run on the CPU, or fail to load.
    """
    version = installed_version(machine, "torch") or ""
    if version.endswith("+cpu") and machine.gpus():
        yield Fault(
            "torch was built without CUDA, and this machine has GPUs",
            f"torch {version}",
            f"{machine.prefix}/bin/python -m pip install --force-reinstall torch",
        )


@check("gpu-busy", "warning")
def gpu_busy(machine: Machine) -> Iterator[Fault]:
    """Another process uses the memory of a GPU.

    A run plans with the whole memory of a GPU. One that is partly taken runs out of memory. Of a machine that is
    shared through SLURM, only the GPUs in CUDA_VISIBLE_DEVICES count.
    """
    visible = _visible(machine)
    for reading in machine.gpus():
        mine = visible is None or str(reading.index) in visible or reading.uuid in visible
        if mine and reading.used_bytes > IDLE_BYTES:
            yield Fault(
                "a GPU's memory is in use by other processes",
                f"GPU {reading.index}: {size(reading.used_bytes)} of {size(reading.total_bytes)}",
                "nvidia-smi --query-compute-apps=pid,used_memory --format=csv",
            )
            return


def _visible(machine: Machine) -> tuple[str, ...] | None:
    """Return the entries of CUDA_VISIBLE_DEVICES; None where it is not set, so that all are visible."""
    if "CUDA_VISIBLE_DEVICES" not in machine.environment:
        return None
    entries = (part.strip() for part in machine.variable("CUDA_VISIBLE_DEVICES").split(","))
    return tuple(part for part in entries if part and part not in NO_DEVICES)
