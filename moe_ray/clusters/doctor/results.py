"""Checks of the folder of an experiment's results: it can be written, it has room, and its locks exclude."""

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import Machine, nearest_existing
from moe_ray.formatting import size

MIN_FREE_BYTES = 100 << 20
LOW_FREE_BYTES = 1 << 30
MIN_FREE_FILES = 1000
QUOTA_SHARE = 0.98
# Of a meeting: the file that the asking machine renames into place, and the one that it locks.
SEEN, LOCKED = "seen", "locked"
VISIBLE_WITHIN_S = 2.0
LOOK_EVERY_S = 0.05
CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.EINVAL)


@check("results-folder", "failure")
def results_folder(machine: Machine) -> Iterator[Fault]:
    """The results cannot be written.

    `output.results_dir`, or the run's folder in it, is a file or belongs to another user.
    """
    run = _run_path(machine)
    if run is None:
        return
    place = nearest_existing(run)
    if not place.is_dir():
        yield Fault("the results folder is a file", str(place), "moe-ray evaluate FILE --results-dir ~/results")
    elif not os.access(place, os.W_OK | os.X_OK):
        yield Fault(
            "the results folder cannot be written by this user",
            str(place),
            "moe-ray evaluate FILE --results-dir ~/results",
        )


@check("results-space", "failure")
def results_space(machine: Machine) -> Iterator[Fault]:
    """The disk of the results is full, in bytes or in files.

    A run directory holds a few files and its answers. A disk can be full in files (inodes) though bytes are free.
    """
    run = _run_path(machine)
    if run is None:
        return
    usage = machine.usage(run)
    if usage is not None and usage.total_bytes and usage.free_bytes < LOW_FREE_BYTES:
        yield Fault(
            "the disk of the results is almost full",
            f"{size(usage.free_bytes)} of {size(usage.total_bytes)} are free",
            f"df -h {nearest_existing(run)}",
            "failure" if usage.free_bytes < MIN_FREE_BYTES else "warning",
        )
    if usage is not None and usage.total_files and usage.free_files < MIN_FREE_FILES:
        yield Fault(
            "the disk of the results has almost no room for further files",
            f"{usage.free_files} of {usage.total_files} files are free",
            f"df -i {nearest_existing(run)}",
        )


@check("quota", "warning")
def quota(machine: Machine) -> Iterator[Fault]:
    """A quota is used up.

    Clusters limit the bytes and the number of files of each user. Asked are `lfs quota` where the results are on
    Lustre, and `quota`, where these commands exist.
    """
    run = _run_path(machine)
    mount = machine.mount(nearest_existing(run)) if run is not None else None
    commands: list[tuple[str, ...]] = [("quota", "-w", "-p")]
    if mount is not None and mount.kind == "lustre":
        commands = [("lfs", "quota", "-u", str(machine.user_id), str(mount.point)), *commands]
    for command in commands:
        shown = machine.run(*command)
        for place, kind, used, limit in _quotas(shown.text if shown is not None else ""):
            if used >= QUOTA_SHARE * limit:
                yield Fault(f"the quota of {kind} is used up", f"{place}: {used} of {limit}", " ".join(command))
                return


@check("results-lock", "warning")
def results_lock(machine: Machine) -> Iterator[Fault]:
    """Locks in the results folder do not exclude other processes.

    Two commands on one run directory exclude each other with a lock. Where the file system cannot lock, or locks on one
    node only, a lease file replaces it: a command that was killed then keeps its run for two minutes. The check
    makes and removes one hidden file.
    """
    run = _run_path(machine)
    folder = nearest_existing(run) if run is not None else None
    if folder is None or not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return
    mount = machine.mount(folder)
    option = mount.local_lock_option if mount is not None else None
    why = f"mounted with {option}" if option is not None else _lock_failure(folder)
    if why is not None:
        yield Fault(
            "the results folder cannot lock files for all nodes, so a lease file will replace the lock",
            f"{folder}: {why}",
            f"findmnt -T {folder}",
        )


@check("shared-folder", "failure")
def shared_folder(machine: Machine) -> Iterator[Fault]:
    """A node does not see the results folder of the others.

    The nodes of a job meet in the run directory. Checked with --nodes and an experiment: a file that the asking machine
    renames into place must be visible on every node within 2 s.
    """
    if machine.meeting is None:
        return
    deadline = time.monotonic() + min(VISIBLE_WITHIN_S, 0.5 * machine.limit_s)
    while not _sees(machine.meeting):
        if time.monotonic() >= deadline:
            yield Fault(
                "this node does not see the results folder of the machine that asks",
                f"{machine.meeting.parent} has no {machine.meeting.name} here",
                f"findmnt -T {machine.meeting.parent}",
            )
            return
        time.sleep(LOOK_EVERY_S)


@check("shared-lock", "warning")
def shared_lock(machine: Machine) -> Iterator[Fault]:
    """A lock that another node holds does not exclude this one.

    Checked with --nodes and an experiment: the asking machine holds a lock while the nodes try it.
    """
    if machine.meeting is None or not (machine.meeting / LOCKED).exists():
        return
    with (machine.meeting / LOCKED).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
    yield Fault(
        "a lock of another node does not exclude this one, so two jobs could work in one run directory",
        f"{machine.meeting.parent}: this node got a lock that is held",
        f"findmnt -T {machine.meeting.parent}",
    )


def _run_path(machine: Machine) -> Path | None:
    if machine.experiment is None:
        return None
    config = machine.experiment.config
    return config.output.results_dir.expanduser() / config.name


def _quotas(text: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield place, kind, use and limit of each line: PLACE kbytes quota limit grace files quota limit grace."""
    for line in text.splitlines():
        fields = [field.rstrip("*") for field in line.split()]
        if len(fields) < 8 or not fields[1].isdecimal():
            continue
        for kind, (used, soft, hard) in (("disk space", fields[1:4]), ("files", fields[5:8])):
            limits = [int(limit) for limit in (soft, hard) if limit.isdecimal() and int(limit)]
            if used.isdecimal() and limits:
                yield fields[0], kind, int(used), min(limits)


def _lock_failure(folder: Path) -> str | None:
    """Return why a lock in `folder` would not exclude a second process; None where it does."""
    path = folder / f".moe-ray-doctor-{secrets.token_hex(8)}.tmp"
    try:
        with path.open("xb") as first, path.open("rb") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return "two processes can hold one lock"
    except OSError as error:
        return error.strerror if error.errno in CANNOT_LOCK else None
    finally:
        with suppress(OSError):
            path.unlink()


def _sees(meeting: Path) -> bool:
    """Look for the file by listing the folder: NFS remembers for a minute that a name was missing."""
    try:
        with os.scandir(meeting) as entries:
            return any(entry.name == SEEN for entry in entries)
    except OSError:
        return False
