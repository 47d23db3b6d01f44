"""Control groups for boxes, where this machine lets one be made: the kernel itself then holds the memory limit.

A group is made per worker and used for one program after another. A shell removes the groups when moe_ray ends, also
after `kill -9`. Without a group the limit rests on the filter and on the warden's counting.

Not tried: `systemd-run --user --scope`. It starts a scope for each command, which takes longer than a whole program,
and a process outside the user's manager may not move into a scope that was started before.
"""

import os
import secrets
import subprocess
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MAX_TASKS = 128
SLACK_BYTES = 8 << 20
"""What the warden, bubblewrap and the kernel need beside the program."""
REMOVE = """
read -r _
tries=100
until rmdir -- "$1"/* "$1" 2>/dev/null || [ ! -d "$1" ] || [ $tries -eq 0 ]; do
    tries=$((tries - 1))
    sleep 0.1
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A version of control groups, and the folder in which this process may make a group that limits memory."""

    version: int
    folder: Path

    def limit(self, group: Path, memory_bytes: int) -> None:
        """Limit a group to a little more than a program's memory. Raises `OSError`."""
        limit = str(memory_bytes + memory_bytes // 16 + SLACK_BYTES)
        if self.version == 1:
            swap = group / "memory.memsw.limit_in_bytes"  # memory and swap together; never below the memory alone
            _write_if_there(swap, "-1")
            (group / "memory.limit_in_bytes").write_text(limit)
            _write_if_there(swap, limit)
        else:
            (group / "memory.max").write_text(limit)
            _write_if_there(group / "memory.swap.max", "0")
            _write_if_there(group / "pids.max", str(MAX_TASKS))

    @property
    def events(self) -> str:
        """Name of the file that counts the processes killed for memory."""
        return "memory.oom_control" if self.version == 1 else "memory.events"


def _write_if_there(path: Path, text: str) -> None:
    """Write to a file that a kernel without accounting of swap or of tasks does not have."""
    if path.exists():
        path.write_text(text)


@dataclass(slots=True)
class Seat:
    """The group of one worker while it runs one program."""

    procs_fd: int
    _events: Path
    _kills: int = field(init=False)

    def __post_init__(self) -> None:
        self._kills = _num_kills(self._events)

    def ran_out(self) -> bool:
        """Say whether the kernel killed a process of this program for its memory."""
        return _num_kills(self._events) > self._kills


class ControlGroups:
    """One group with a group per worker in it."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        """Make the group. Raises `OSError` where that is not allowed."""
        self._hierarchy = hierarchy
        self._folder = hierarchy.folder / f"moe-ray-{os.getpid()}-{secrets.token_hex(4)}"
        self._limits: dict[int, int] = {}
        self._folder.mkdir()
        command = ["/bin/sh", "-c", REMOVE, "sh", str(self._folder)]
        guard = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        self.close = weakref.finalize(self, guard.communicate)
        try:
            if hierarchy.version == 2:
                for controller in ("+memory", "+pids"):
                    (self._folder / "cgroup.subtree_control").write_text(controller)
            self._check()
        except OSError:
            self.close()
            raise

    def _check(self) -> None:
        """Move a process into a worker's group, to learn whether that is allowed."""
        with self.seat(0, SLACK_BYTES) as seat, subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
            os.write(seat.procs_fd, str(process.pid).encode())

    @contextmanager
    def seat(self, worker: int, memory_bytes: int) -> Iterator[Seat]:
        """Yield the group of `worker`, with this limit. Raises `OSError`."""
        group = self._folder / f"worker-{worker}"
        if self._limits.get(worker) != memory_bytes:
            group.mkdir(exist_ok=True)
            self._hierarchy.limit(group, memory_bytes)
            self._limits[worker] = memory_bytes
        procs_fd = os.open(group / "cgroup.procs", os.O_WRONLY)
        try:
            yield Seat(procs_fd, group / self._hierarchy.events)
        finally:
            os.close(procs_fd)


def _num_kills(events: Path) -> int:
    """Return how many processes of a group the kernel has killed for memory (0 where it does not count them)."""
    counts = dict(line.split() for line in events.read_text().splitlines())
    return int(counts.get("oom_kill", 0))


def open_groups(proc: Path = Path("/proc/self")) -> ControlGroups | None:
    """Return groups for this process's boxes, or None where this machine lets none be made."""
    for hierarchy in hierarchies(proc):
        with suppress(OSError):
            return ControlGroups(hierarchy)
    return None


def hierarchies(proc: Path) -> Iterator[Hierarchy]:
    """Yield the folders in which this process may make groups with a memory limit, the nearest to its own first.

    In version 2 a group with processes cannot limit those below it, so that a folder above this process's own is used,
    if it hands the memory controller down and this process may write into it (a delegated tree, or root).
    """
    try:
        own = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split(" - ") for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:
        return
    for fields, source in ((left.split(), right.split()) for left, right in mounts):
        kind, options = source[0], source[-1].split(",")
        root, folder = fields[3], Path(fields[4])
        for _, controllers, path in own:
            if kind == "cgroup" and "memory" in options and "memory" in controllers.split(","):
                yield from _writable(1, [_below(folder, root, path)])
            elif kind == "cgroup2" and not controllers:
                mine = _below(folder, root, path)
                above = [group for group in (mine, *mine.parents) if group == folder or folder in group.parents]
                yield from _writable(2, [group for group in above if _hands_down_memory(group)])


def _below(folder: Path, root: str, path: str) -> Path:
    """Return where the group `path` is seen, when `folder` shows the group `root`."""
    group = PurePosixPath(path)
    return folder / (group.relative_to(root) if group.is_relative_to(root) else group.relative_to("/"))


def _hands_down_memory(group: Path) -> bool:
    with suppress(OSError):
        return "memory" in (group / "cgroup.subtree_control").read_text().split()
    return False


def _writable(version: int, groups: list[Path]) -> Iterator[Hierarchy]:
    for group in groups:
        if os.access(group, os.W_OK) and os.access(group / "cgroup.procs", os.W_OK):
            yield Hierarchy(version=version, folder=group)
