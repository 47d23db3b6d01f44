"""The time limit. It is of CPU time where the machine is busy: a program that waits for a core is not a slow one."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WALL_FACTOR = 5.0
"""Times the limit that a program may take by the wall clock, however little CPU time it got."""
MIN_SLICE_S = 0.25
MIN_LOOK_S = 0.01
MIN_PROGRESS_S = 0.0002
CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process; 0 where the system does not tell it."""
    try:
        return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return 0.0


class Clock:
    """Says when the time of some processes is over.

    By the wall clock they have the limit. After that they may go on while they have taken less CPU time than the limit,
    and some in the last slice of time. A program that sleeps takes none and is ended.
    """

    def __init__(
        self,
        limit_s: float,
        pids: tuple[int, ...],
        *,
        now: Callable[[], float] = time.monotonic,
        cpu: Callable[[int], float] = cpu_seconds,
    ) -> None:
        self._limit_s = limit_s
        self._pids = pids
        self._now, self._cpu = now, cpu
        self._started = now()
        self._slice_s = max(MIN_SLICE_S, limit_s / 4)
        self._next = self._started + max(0.0, limit_s - self._slice_s)
        self._slice_began = self._next
        self._before_s: float | None = None

    def left_s(self) -> float:
        """Return the seconds until `over` may say something else."""
        return max(0.0, self._next - self._now())

    def over(self) -> tuple[str, str] | None:
        """Return "timeout", or "idle" where CPU time was lacking or not wanted, and words for it; None: go on."""
        now = self._now()
        if now < self._next:
            return None
        cpu_s, wall_s = sum(map(self._cpu, self._pids)), now - self._started
        if wall_s >= self._limit_s:
            if cpu_s >= self._limit_s:
                return "timeout", f"not done after {self._limit_s:g} s"
            if self._stands_still(now, cpu_s) or wall_s >= MAX_WALL_FACTOR * self._limit_s:
                return "idle", f"not done after {wall_s:.3g} s, {cpu_s:.2g} s of them CPU time"
        if self._before_s is None or now - self._slice_began >= self._slice_s:
            self._slice_began, self._before_s = now, cpu_s
        left_s = min(self._slice_began + self._slice_s - now, self._limit_s - cpu_s)
        self._next = now + max(MIN_LOOK_S, left_s)
        return None

    def _stands_still(self, now: float, cpu_s: float) -> bool:
        """Say whether a whole slice of time has passed without work."""
        if self._before_s is None or now - self._slice_began < self._slice_s:
            return False
        return cpu_s - self._before_s < MIN_PROGRESS_S
