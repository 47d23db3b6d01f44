"""Counting memory that the limits of a single process do not bound.

RLIMIT_AS bounds the mappings of one process. The warden also bounds the sum over player and judge of their resident
memory and page tables, and what the files in the scratch take. It reads the host's /proc through a descriptor that it
was handed, because the box itself has no /proc.

Not counted: the kernel's records of mappings and open files, at most some percent of the limit.
"""

from __future__ import annotations

import os

from moe_ray.scoring.sandbox.guest import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME_BYTES = 16
STATUS_BYTES = 8192
BYTES_PER_FILE = 2048  # what the kernel keeps of a file in memory: inode, directory entry, a long name
COUNTED = (b"RssAnon:", b"RssShmem:", b"VmPTE:", b"VmSwap:")
MOST_KILLABLE = b"1000"


class Meter:
    """Counts the memory of the processes that `admit()` was called in, and of the scratch."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.limit_bytes: int = settings["memory_bytes"]
        self._scratch: str | None = settings["scratch"] if settings["count_scratch"] else None
        self._proc_fd: int | None = settings["proc_fd"]
        self._told, self._gate = os.pipe(), os.pipe()
        self._statuses: list[int] = []

    def admit(self) -> None:
        """In a child that is to be counted: tell the warden where to look, and wait until it has looked.

        A /proc mounted with `hidepid` shows no process that is not dumpable, so this one is dumpable while it waits. It
        holds no secret yet. If the machine runs out of memory, the kernel kills this process before others.
        """
        if self._proc_fd is not None:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            _prefer_as_victim(self._proc_fd)
            name = os.readlink("self", dir_fd=self._proc_fd)
            os.write(self._told[1], name.encode().ljust(NAME_BYTES))
            os.close(self._gate[1])
            os.read(self._gate[0], 1)
            os.close(self._proc_fd)  # explicitly: through it the player would see every process of the host
        for fd in (*self._told, self._gate[0]):
            os.close(fd)

    def open(self, num_children: int) -> None:
        """In the warden: open the status of every child, then let them go on."""
        os.close(self._told[1])
        for _ in range(num_children if self._proc_fd is not None else 0):
            name = os.read(self._told[0], NAME_BYTES).decode().strip()
            if name:
                self._statuses.append(os.open(f"{name}/status", os.O_RDONLY, dir_fd=self._proc_fd))
        for fd in (*self._gate, self._told[0]):
            os.close(fd)

    def total_bytes(self) -> int:
        """Return what all of it takes now."""
        return sum(map(_resident_bytes, self._statuses)) + self._scratch_bytes()

    def _scratch_bytes(self) -> int:
        if self._scratch is None:
            return 0
        found = os.statvfs(self._scratch)
        return (found.f_blocks - found.f_bfree) * found.f_frsize + (found.f_files - found.f_ffree) * BYTES_PER_FILE


def _prefer_as_victim(proc_fd: int) -> None:
    try:
        fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc_fd)
        os.write(fd, MOST_KILLABLE)
        os.close(fd)
    except OSError:  # a read-only /proc: the limit does not depend on it
        return


def _resident_bytes(status_fd: int) -> int:
    try:
        lines = os.pread(status_fd, STATUS_BYTES, 0).splitlines()
    except ProcessLookupError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(COUNTED))
