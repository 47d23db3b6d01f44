"""The memory of other processes, as Linux counts it."""

import subprocess
import sys

from moe_ray.execution.gpus import peak_resident_bytes

MIB = 1 << 20
HOLDS_AND_DROPS = "held = bytearray(64 << 20); del held; print(flush=True); input()"


def test_the_peak_of_another_process_is_known_after_it_shrank() -> None:
    command = [sys.executable, "-c", HOLDS_AND_DROPS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        peak = peak_resident_bytes(process.pid)
        process.communicate(b"\n")
    assert 64 * MIB < peak < 200 * MIB
    assert peak_resident_bytes(process.pid) == 0, "a process that is gone holds nothing"
