"""Descriptors of the host that the warden is handed. The player and the judge close them before they start."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache

from moe_ray.scoring.sandbox.boxes import Box
from moe_ray.scoring.sandbox.groups import Seat
from moe_ray.scoring.sandbox.guest import confine


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
def handed_over(box: Box, worker: int) -> Iterator[Handover]:
    """Yield what the box of one program of `worker` is handed."""
    with ExitStack() as stack:
        proc_fd = _open_proc()
        if proc_fd is not None:
            stack.callback(os.close, proc_fd)
        seat = None
        if box.groups is not None:
            with suppress(OSError):  # somebody removed the group; the warden still counts
                seat = stack.enter_context(box.groups.seat(worker, box.settings["memory_bytes"]))
        group_fd = None if seat is None else seat.procs_fd
        yield Handover(settings={"proc_fd": proc_fd, "group_fd": group_fd, "rules_fd": _rules_fd(box)}, seat=seat)


def _open_proc() -> int | None:
    """Open /proc, in which the warden finds how much memory its children take."""
    if sys.platform != "linux" or not os.path.lexists("/proc/self/status"):
        return None
    return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)


def _rules_fd(box: Box) -> int | None:
    """Return the file rules of a box that sees the host's own files: they are the same for every program.

    Boxes with a root of their own make theirs inside.
    """
    if box.shared_rules is None or not box.settings["filters"]:
        return None
    return _made_rules(*box.shared_rules)


@cache
def _made_rules(read: tuple[str, ...], listed: tuple[str, ...], write: tuple[str, ...]) -> int | None:
    """Make rules that stay open as long as this process lives. Some hundred rules take milliseconds."""
    return confine.file_rules({"filters": True, "read_paths": read, "list_paths": listed, "write_paths": write})
