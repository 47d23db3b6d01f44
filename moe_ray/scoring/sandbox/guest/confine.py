"""How the player and the judge give up, for good, what they do not need."""

from __future__ import annotations

import os
import resource
import sys

from moe_ray.scoring.sandbox.guest import kernel, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_OPEN_FILES = 64
MAX_STACK_BYTES = 8 << 20
MAX_PENDING_SIGNALS = 16


def close_all_but(*keep: int | None) -> None:
    """Close every descriptor above 2 that is not in `keep`."""
    last = 2
    for fd in sorted(fd for fd in keep if fd is not None):
        os.closerange(last + 1, fd)
        last = max(last, fd)
    os.closerange(last + 1, 4096)


def hide_from_siblings() -> None:
    """Keep other processes of this user from reading this one's memory or tracing it."""
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def file_rules(settings: dict[str, Any]) -> int | None:
    """Return the rules about files as a descriptor: those that the host handed over, or new ones; None for no rules."""
    if sys.platform != "linux" or not settings["filters"] or kernel.landlock_abi() == 0:
        return None
    rules_fd: int | None = settings.get("rules_fd")
    if rules_fd is not None:
        return rules_fd
    return kernel.file_rules(settings["read_paths"], settings["list_paths"], settings["write_paths"])


def confine(settings: dict[str, Any], uid: int | None, parent: int, ruleset: int | None) -> None:
    """Apply limits, another user (`uid`, when the process may), `file_rules` and the kernel's filters to this process,
    which ends with `parent`.

    Raises `OSError` when the kernel refuses one, so that nothing runs half confined, and when the parent is gone.
    """
    _limit(settings)
    if sys.platform == "linux":
        _use_small_pages()
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if sys.platform != "linux":
        return
    hide_from_siblings()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
    if os.getppid() != parent:  # it died before it was asked for the signal
        raise ProcessLookupError("the warden is gone")
    if not settings["filters"]:
        return
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if ruleset is not None:
        kernel.restrict_files(ruleset)
    instructions = syscalls.denying_filter(
        os.uname().machine, os.getpid(), threads=settings["threads"], shared_files=settings["shared_files"]
    )
    if instructions:
        kernel.install_filter(instructions)


def _use_small_pages() -> None:
    """Never back this process by huge pages: one stays whole, uncounted, while any part of it is mapped."""
    try:
        kernel.prctl(kernel.PR_SET_THP_DISABLE, 1)
    except OSError:  # a kernel without huge pages may not know the request; the probe tries what happens
        return


def _limit(settings: dict[str, Any]) -> None:
    cpu_s = int(settings["timeout_s"]) + 1
    limits = {
        "RLIMIT_AS": settings["memory_bytes"],
        "RLIMIT_DATA": settings["memory_bytes"],
        "RLIMIT_FSIZE": settings["file_bytes"],
        "RLIMIT_NPROC": settings["num_tasks"],
        "RLIMIT_NOFILE": MAX_OPEN_FILES,
        "RLIMIT_STACK": MAX_STACK_BYTES,
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": cpu_s,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_SIGPENDING": MAX_PENDING_SIGNALS,
    }
    for name, value in limits.items():
        number = getattr(resource, name, None)
        if number is None:
            continue
        _, hard = resource.getrlimit(number)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
