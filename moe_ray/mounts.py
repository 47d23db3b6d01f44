"""The file system that a path is on, from the kernel's table of mounts."""

import re
from pathlib import Path
from typing import NamedTuple

TABLE = Path("/proc/self/mountinfo")
NETWORK_KINDS = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "pvfs2", "orangefs", "wekafs", "9p"}
)
# With these options a lock excludes processes of one node only: Lustre's, NFS's.
LOCAL_LOCKS = frozenset({"localflock", "nolock", "local_lock=all", "local_lock=flock"})
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system: where, of which kind ("ext4", "nfs4"), with which options of the mount and of itself."""

    point: Path
    kind: str
    options: frozenset[str]

    @property
    def is_network(self) -> bool:
        return self.kind in NETWORK_KINDS or self.kind.startswith("fuse.")

    @property
    def local_lock_option(self) -> str | None:
        """The option by which a lock excludes processes of this node only; None where locks exclude all nodes."""
        return min(self.options & LOCAL_LOCKS, default=None) if self.is_network else None


def mount_of(path: Path, table: Path = TABLE) -> Mount | None:
    """Return the mount that holds `path`, which need not exist; None where the table cannot be read."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
        place = path.resolve()
    except (OSError, RuntimeError):
        return None
    found: Mount | None = None
    for mount in filter(None, map(_parsed, lines)):
        is_deeper = found is None or len(mount.point.parts) >= len(found.point.parts)
        if is_deeper and place.is_relative_to(mount.point):
            found = mount
    return found


def _parsed(line: str) -> Mount | None:
    """A line is: id parent device root POINT OPTIONS [tags] - KIND source OPTIONS."""
    left, _, right = line.partition(" - ")
    fields, own = left.split(), right.split()
    if len(fields) < 6 or not own:
        return None
    point = _OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[4])
    options = ",".join([fields[5], *own[2:3]])
    return Mount(Path(point), own[0], frozenset(options.split(",")))
