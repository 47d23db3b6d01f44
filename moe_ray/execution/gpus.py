"""NVML's figures of this machine's GPUs, and the fleet that it is. A figure that NVML cannot give is None, never 0."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from moe_ray.config.schema import RuntimeConfig
from moe_ray.execution.cores import usable_cores
from moe_ray.planning.fleet import Fleet, Node, cpu_slots


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU now. `energy_j` counts from the driver's start."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int
    energy_j: float | None


@contextmanager
def _nvml() -> Iterator[ModuleType | None]:
    """Open NVML, or yield None on a machine without an NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def read_gpus() -> list[GpuReading]:
    """Return a reading of every GPU of this machine, by NVML's index; empty without an NVIDIA driver."""
    with _nvml() as nvml:
        return [] if nvml is None else [_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]


def _read(nvml: ModuleType, index: int) -> GpuReading:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    try:
        energy_j = nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1000
    except nvml.NVMLError:
        energy_j = None
    return GpuReading(
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(device),
        name=nvml.nvmlDeviceGetName(device),
        total_bytes=memory.total,
        used_bytes=memory.used,
        energy_j=energy_j,
    )


def uuids_of(ids: Iterable[str]) -> list[str]:
    """Return the UUIDs of the GPUs that Ray assigned; an id is NVML's index, or a UUID already.

    NVML ignores CUDA_VISIBLE_DEVICES, so its index is the machine's. Ids without a GPU behind them (declared to Ray
    only) are left out.
    """
    readings = {str(reading.index): reading.uuid for reading in read_gpus()}
    known = set(readings.values())
    named = (readings.get(gpu_id, gpu_id) for gpu_id in ids)
    return [uuid for uuid in named if uuid in known]


def used_bytes(uuids: Sequence[str]) -> int | None:
    """Return the memory in use on these GPUs together, by all processes."""
    figures = [reading.used_bytes for reading in read_gpus() if reading.uuid in uuids]
    return sum(figures) if figures else None


def energy_j(uuids: Sequence[str]) -> float | None:
    """Return the energy counters of these GPUs together, in joules."""
    figures = [reading.energy_j for reading in read_gpus() if reading.uuid in uuids]
    known = [figure for figure in figures if figure is not None]
    return sum(known) if figures and len(known) == len(figures) else None


def process_bytes(pids: Collection[int], uuids: Sequence[str]) -> int | None:
    """Return the GPU memory of `pids` together; None where NVML sees none of them (often so inside containers)."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        figures = []
        for uuid in uuids:
            device = nvml.nvmlDeviceGetHandleByUUID(uuid)
            try:
                running = nvml.nvmlDeviceGetComputeRunningProcesses(device)
            except nvml.NVMLError:
                return None
            figures += [entry.usedGpuMemory for entry in running if entry.pid in pids and entry.usedGpuMemory]
        return sum(figures) if figures else None


_KIB = 1024


def peak_resident_bytes(pid: int) -> int:
    """Return the most memory that process `pid` had resident so far; 0 for one that is gone or going.

    Read from the kernel's table: ru_maxrss of a process that was forked is its parent's, where that is larger.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    # "VmHWM:     12345 kB"; a process that has ended and was not waited for has no such line.
    found = (line.split() for line in status.splitlines() if line.startswith("VmHWM:"))
    return next((int(words[1]) * _KIB for words in found), 0)


def fleet_of_this_machine(runtime: RuntimeConfig) -> Fleet:
    """What `runtime` lets a run use of this machine, found without Ray."""
    num_cpus = usable_cores()
    gpu_bytes = tuple(reading.total_bytes for reading in read_gpus())
    if runtime.gpus != "auto":
        gpu_bytes = gpu_bytes[: runtime.gpus]
    slots = cpu_slots(runtime, num_cpus)
    return Fleet((Node(id="here", name="here", num_cpus=num_cpus, cpu_slots=slots, gpu_bytes=gpu_bytes),))
