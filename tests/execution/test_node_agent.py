"""A node's agent sees processes end and memory come back; NVML's figures are None, never 0, where there are none."""

import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from moe_ray.execution import gpus, node_agent
from moe_ray.execution.gpus import peak_resident_bytes
from moe_ray.execution.node_agent import NodeAgent

GIB = 1 << 30
MIB = 1 << 20
HOLDS_AND_DROPS = "held = bytearray(64 << 20); del held; print(flush=True); input()"


class NoNvmlError(Exception):
    """NVML's error, faked."""


@dataclass
class Device:
    """One faked GPU."""

    uuid: str
    used: Callable[[], int] = lambda: GIB
    energy_mj: int | None = 5000
    processes: dict[int, int] = field(default_factory=dict)


def fake_nvml(devices: list[Device] | None) -> types.ModuleType:
    """NVML with these GPUs; with None, no driver."""
    module = types.ModuleType("pynvml")

    def init() -> None:
        if devices is None:
            raise NoNvmlError

    def energy(device: Device) -> int:
        if device.energy_mj is None:
            raise NoNvmlError
        return device.energy_mj

    known = devices or []
    vars(module).update(
        NVMLError=NoNvmlError,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(known),
        nvmlDeviceGetHandleByIndex=lambda index: known[index],
        nvmlDeviceGetHandleByUUID=lambda uuid: next(device for device in known if device.uuid == uuid),
        nvmlDeviceGetMemoryInfo=lambda device: types.SimpleNamespace(total=80 * GIB, used=device.used()),
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetUUID=lambda device: device.uuid,
        nvmlDeviceGetName=lambda _device: "Fake",
        nvmlDeviceGetComputeRunningProcesses=lambda device: [
            types.SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device.processes.items()
        ],
    )
    return module


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Device] | None], None]:
    return lambda devices: monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(devices))


def test_without_a_driver_every_figure_is_none(nvml: Callable[[list[Device] | None], None]) -> None:
    nvml(None)
    assert gpus.read_gpus() == []
    assert gpus.uuids_of(["0", "1"]) == []
    assert (gpus.used_bytes(["GPU-a"]), gpus.energy_j(["GPU-a"]), gpus.process_bytes([1], ["GPU-a"])) == (
        None,
        None,
        None,
    )


def test_assigned_ids_are_nvml_indices_or_uuids(nvml: Callable[[list[Device] | None], None]) -> None:
    nvml([Device("GPU-a"), Device("GPU-b")])
    assert gpus.uuids_of(["1", "GPU-a", "7"]) == ["GPU-b", "GPU-a"]


def test_figures_of_several_gpus_are_summed_and_half_known_energy_is_unknown(
    nvml: Callable[[list[Device] | None], None],
) -> None:
    nvml(
        [Device("GPU-a", processes={7: 100}), Device("GPU-b", processes={7: 11, 8: 5}), Device("GPU-c", energy_mj=None)]
    )
    assert gpus.used_bytes(["GPU-a", "GPU-b"]) == 2 * GIB
    assert gpus.energy_j(["GPU-a", "GPU-b"]) == 10.0
    assert gpus.energy_j(["GPU-a", "GPU-c"]) is None
    assert gpus.process_bytes([7], ["GPU-a", "GPU-b"]) == 111
    assert gpus.process_bytes([7, 8], ["GPU-a", "GPU-b"]) == 116, "a server's processes count with their replica's"
    assert gpus.process_bytes([9], ["GPU-a", "GPU-b"]) is None, "not seen (another container's pid) is not 0"


def test_a_process_that_leaves_is_seen_to_leave() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"]) as process:
        departure = NodeAgent().await_departure(process.pid, [], None, 20.0)
    assert (departure.gone, departure.memory_returned, departure.gpu_bytes) == (True, True, None)


def test_a_process_that_stays_is_reported_when_the_time_is_up() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        departure = NodeAgent().await_departure(process.pid, [], None, 0.1)
        process.kill()
    assert not departure.gone


def test_memory_is_waited_for_after_the_process(nvml: Callable[[list[Device] | None], None]) -> None:
    free_at = time.monotonic() + 0.3
    nvml([Device("GPU-a", used=lambda: GIB if time.monotonic() > free_at else 40 * GIB)])
    departure = NodeAgent().await_departure(2**22 + 1, ["GPU-a"], GIB, 5.0)
    assert (departure.gone, departure.memory_returned, departure.gpu_bytes) == (True, True, GIB)
    assert time.monotonic() > free_at


def test_memory_that_stays_taken_is_reported_and_not_waited_for_for_ever(
    nvml: Callable[[list[Device] | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_agent, "RETURN_TIMEOUT_S", 0.1)
    nvml([Device("GPU-a", used=lambda: 40 * GIB)])
    departure = NodeAgent().await_departure(2**22 + 1, ["GPU-a"], GIB, 5.0)
    assert (departure.gone, departure.memory_returned, departure.gpu_bytes) == (True, False, 40 * GIB)


def test_on_a_shared_gpu_the_others_memory_is_nobodys_fault(nvml: Callable[[list[Device] | None], None]) -> None:
    nvml([Device("GPU-a", used=lambda: 40 * GIB)])
    assert NodeAgent().await_departure(2**22 + 1, ["GPU-a"], None, 5.0).memory_returned


def test_the_peak_of_another_process_is_known_after_it_shrank() -> None:
    command = [sys.executable, "-c", HOLDS_AND_DROPS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        peak = peak_resident_bytes(process.pid)
        process.communicate(b"\n")
    assert 64 * MIB < peak < 200 * MIB
    assert peak_resident_bytes(process.pid) == 0, "a process that is gone holds nothing"
