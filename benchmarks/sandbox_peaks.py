"""The peak memory of one program in its box, measured from outside.

By a control group that this process makes below its own and joins, where it may (version 1). It counts all that the
kernel charges, page tables and kernel objects too. Elsewhere by sampling /proc of every process below this one.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil

from moe_ray.scoring.sandbox import Program, ProgramVerdict, Sandbox
from moe_ray.scoring.sandbox.guest.meter import COUNTED

CONTROLLER = Path("/sys/fs/cgroup/memory")
SAMPLE_S = 0.003
LEAVE_TRIES = 50


class Gauge(Protocol):
    """Measures what everything below this process takes."""

    how: str

    def reset(self) -> None:
        """Begin a measurement."""
        ...

    def peak_bytes(self) -> int:
        """Return the most that was taken at once since then, beyond what was taken then."""
        ...


class GroupGauge:
    """Reads the counters of a control group."""

    how = "by a control group"

    def __init__(self, group: Path) -> None:
        self._group = group
        self._before_bytes = 0

    def reset(self) -> None:
        """Begin a measurement."""
        (self._group / "memory.max_usage_in_bytes").write_text("0")
        self._before_bytes = int((self._group / "memory.usage_in_bytes").read_text())

    def peak_bytes(self) -> int:
        """Return the highest usage since then, beyond that of then."""
        return int((self._group / "memory.max_usage_in_bytes").read_text()) - self._before_bytes


class SampleGauge:
    """Adds up the memory and page tables of all processes below this one, every few milliseconds."""

    how = "by samples of /proc"

    def __init__(self) -> None:
        self._peak_bytes = 0
        self.ended = threading.Event()

    def sample(self) -> None:
        """Keep the highest sum until `ended` is set."""
        while not self.ended.wait(SAMPLE_S):
            self._peak_bytes = max(self._peak_bytes, sum(map(_taken_bytes, psutil.Process().children(recursive=True))))

    def reset(self) -> None:
        """Begin a measurement."""
        self._peak_bytes = 0

    def peak_bytes(self) -> int:
        """Return the highest sum since then."""
        return self._peak_bytes


def _taken_bytes(process: psutil.Process) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/status").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(COUNTED))


@contextmanager
def gauge() -> Iterator[Gauge]:
    """Yield the best gauge that this process may have here; leave nothing behind."""
    group = _join_new_group()
    if group is not None:
        try:
            yield GroupGauge(group)
        finally:
            _leave(group)
        return
    sampling = SampleGauge()
    thread = threading.Thread(target=sampling.sample)
    thread.start()
    try:
        yield sampling
    finally:
        sampling.ended.set()
        thread.join()


def _join_new_group() -> Path | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.split(":", 2)[2] for line in lines if ":memory:" in line)
        group = CONTROLLER / own.lstrip("/") / f"sandbox-peaks-{os.getpid()}"
        group.mkdir()
    except (OSError, StopIteration):
        return None
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        group.rmdir()
        return None
    return group


def _leave(group: Path) -> None:
    """Return to the group above and remove this one, once the last of its processes has gone."""
    (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    for _ in range(LEAVE_TRIES):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def measure(sandbox: Sandbox, programs: dict[str, Program], measuring: Gauge) -> dict[str, tuple[ProgramVerdict, int]]:
    """Run every program alone; return its verdict and the peak of its box in bytes."""
    found = {}
    for name, program in programs.items():
        measuring.reset()
        verdict = sandbox.run_all([program])[0]
        found[name] = verdict, measuring.peak_bytes()
    return found
