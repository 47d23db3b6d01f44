"""The memory limit is for the whole box, and what a program takes in other ways than by mapping it counts too."""

import os
from pathlib import Path

import pytest

from moe_ray.errors import SandboxError
from moe_ray.scoring.sandbox import Program, Sandbox
from moe_ray.scoring.sandbox.guest.meter import Meter
from tests.support.sandbox.attacks.memory import MAPPING
from tests.support.sandbox.suite import BACKENDS, CONFIG

SPARSE = """
def f(x):
    for number in range(2, 60000):
        address = mapped(PAGE, PRIVATE | ANONYMOUS, number << 31)
        ctypes.memset(address, 1, 1)
    return 41
"""


@pytest.fixture(params=[backend for backend in BACKENDS if backend != "limits"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    try:
        return Sandbox.open(CONFIG, backend=request.param)
    except SandboxError as error:
        pytest.skip(str(error))


def test_page_tables_count(sandbox: Sandbox) -> None:
    verdict = sandbox.run_all([Program(code=MAPPING + SPARSE, tests=("assert f(1) == 41",))])[0]
    assert (verdict.outcome, verdict.detail) == ("memory", "took more than 256 MiB in all")


def _meter(scratch: Path | None, proc_fd: int | None) -> Meter:
    return Meter({"memory_bytes": 0, "proc_fd": proc_fd, "scratch": str(scratch), "count_scratch": scratch is not None})


def _counted_child(meter: Meter, num_bytes: int) -> tuple[int, int]:
    """Fork a child that takes `num_bytes` and is counted; return its pid and the descriptor that ends it."""
    end_read, end_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = bytearray(num_bytes)
        kept[::4096] = b"x" * len(range(0, num_bytes, 4096))
        os.close(end_write)
        meter.admit()
        os.read(end_read, 1)
        os._exit(0)
    os.close(end_read)
    return pid, end_write


def test_the_memory_of_every_child_counts_until_it_ends() -> None:
    proc_fd = os.open("/proc", os.O_RDONLY)
    meter = _meter(None, proc_fd)
    children = [_counted_child(meter, 32 << 20) for _ in range(2)]
    meter.open(2)
    total_bytes = meter.total_bytes()
    for _, end in children:
        os.close(end)
    for pid, _ in children:
        os.waitpid(pid, 0)
    os.close(proc_fd)
    assert total_bytes > 64 << 20
    assert meter.total_bytes() == 0


def test_a_machine_without_proc_counts_only_the_scratch() -> None:
    meter = _meter(None, None)
    child, end = _counted_child(meter, 1)
    meter.open(1)
    os.close(end)
    os.waitpid(child, 0)
    assert meter.total_bytes() == 0


def test_files_in_the_scratch_count_by_size_and_by_number() -> None:
    scratch = Path("/dev/shm")
    if not os.access(scratch, os.W_OK):
        pytest.skip("no writable tmpfs here")
    meter = _meter(scratch, None)
    before = meter.total_bytes()
    held = [open(os.open(scratch, os.O_TMPFILE | os.O_RDWR), "wb") for _ in range(64)]  # noqa: SIM115, PTH123
    held[0].write(bytes(8 << 20))
    held[0].flush()
    taken = meter.total_bytes() - before
    for file in held:
        file.close()
    assert taken >= (8 << 20) + 63 * 2048
