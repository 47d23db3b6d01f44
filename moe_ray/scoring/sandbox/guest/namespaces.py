"""A box without bubblewrap: fresh namespaces, and a root that holds only what Python needs."""

from __future__ import annotations

import os

from moe_ray.scoring.sandbox.guest import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEW_NAMESPACES = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
)  # ns cgroup uts ipc pid net
NEW_USER = 0x10000000
READ_ONLY, NO_SUID, NO_DEV, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
LOCKED_FLAGS = 2 | 4 | 8  # nosuid, nodev, noexec: a user namespace may not take them off
ROOT_OPTIONS = "size=1m,mode=755"


def enter(settings: dict[str, Any]) -> None:
    """Return in a child process that is process 1 of fresh namespaces; the caller itself waits for it and exits.

    As root no user namespace is made, so that the player can be given a user of its own. Raises `OSError`.
    """
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(NEW_NAMESPACES | (0 if uid == 0 else NEW_USER))
    if uid != 0:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    child = os.fork()
    if child:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
        _, status = os.waitpid(child, 0)
        os._exit(0 if status == 0 else 71)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
    _build_root(settings)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123  (pathlib is a slow import for a process this short)
        file.write(text)


def _build_root(settings: dict[str, Any]) -> None:
    root = settings["new_root"]
    kernel.mount("none", "/", None, RECURSIVE | PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEV, ROOT_OPTIONS)
    for path in settings["read_paths"]:
        _bind(path, root + path)
    for path in settings["hidden_paths"]:
        kernel.mount("tmpfs", root + path, "tmpfs", READ_ONLY | NO_SUID | NO_DEV, "size=4k")
    scratch = root + settings["scratch"]
    os.makedirs(scratch)  # noqa: PTH103
    kernel.mount("tmpfs", scratch, "tmpfs", NO_SUID | NO_DEV, settings["scratch_options"])
    old = f"{root}/.old"
    os.mkdir(old)  # noqa: PTH102
    kernel.pivot_root(root, old)
    os.chdir("/")
    kernel.unmount("/.old")
    kernel.mount("none", "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)


def _bind(source: str, target: str) -> None:
    """Show `source` read-only at `target`; a missing one stays missing, a link stays a link."""
    if not os.path.lexists(source) or os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.islink(source):  # noqa: PTH114
        os.symlink(os.readlink(source), target)  # noqa: PTH115, PTH211
        return
    if os.path.isdir(source):  # noqa: PTH112
        os.mkdir(target)  # noqa: PTH102
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    kernel.mount(source, target, None, BIND | RECURSIVE)
    kept = os.statvfs(source).f_flag & LOCKED_FLAGS
    if source.startswith("/dev/"):
        return
    kernel.mount("none", target, None, REMOUNT | BIND | READ_ONLY | NO_SUID | kept)
