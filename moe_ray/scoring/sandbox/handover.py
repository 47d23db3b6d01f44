"""Descriptors of the host that the warden is handed. The player and the judge close them before they start."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from moe_ray.scoring.sandbox.groups import Groups, Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """`settings` names the descriptors for the warden; None where this machine has no such thing."""

    settings: dict[str, int | None]
    seat: Seat | None

    @property
    def descriptors(self) -> list[int]:
        """Return those that are open."""
        return [fd for fd in self.settings.values() if fd is not None]

    def ran_out_of_memory(self) -> bool:
        """Say whether the kernel killed a process of the box for its memory."""
        return self.seat is not None and self.seat.ran_out()


@contextmanager
def handed_over(groups: Groups | None, worker: int, memory_bytes: int) -> Iterator[Handover]:
    """Yield what the box of one program of `worker` is handed."""
    with ExitStack() as stack:
        proc_fd = _open_proc()
        if proc_fd is not None:
            stack.callback(os.close, proc_fd)
        seat = None
        if groups is not None:
            with suppress(OSError):  # somebody removed the group; the warden still counts
                seat = stack.enter_context(groups.seat(worker, memory_bytes))
        group_fd = None if seat is None else seat.procs_fd
        yield Handover(settings={"proc_fd": proc_fd, "group_fd": group_fd}, seat=seat)


def _open_proc() -> int | None:
    """Open /proc, in which the warden finds how much memory its children take."""
    if sys.platform != "linux" or not os.path.lexists("/proc/self/status"):
        return None
    return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
