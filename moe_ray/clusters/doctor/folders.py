"""Checks of the folders for temporary files and for what can be made again."""

import os
from collections.abc import Iterator
from pathlib import Path

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import Machine, nearest_existing
from moe_ray.execution.temp_dir import MAX_TEMP_DIR_BYTES
from moe_ray.formatting import percent, size
from moe_ray.planning.memory import GIB

# Ray refuses new objects on a disk that is fuller than this.
RAY_MAX_USED = 0.95
MIN_TEMP_BYTES = GIB


@check("temp-length", "failure")
def temp_length(machine: Machine) -> Iterator[Fault]:
    """The path of Ray's temporary folder is too long.

    Ray makes Unix sockets below it, whose paths end at 107 bytes; 43 bytes are left for the folder. The folder is
    `runtime.temp_dir`, else `ray` in RAY_TMPDIR, TMPDIR or /tmp.
    """
    if machine.address is None and len(os.fsencode(machine.ray_temp_dir)) > MAX_TEMP_DIR_BYTES:
        yield Fault(
            f"the path of Ray's temporary folder has more than {MAX_TEMP_DIR_BYTES} bytes",
            f"{machine.ray_temp_dir} has {len(os.fsencode(machine.ray_temp_dir))}",
            f"export RAY_TMPDIR=/tmp/r{machine.user_id}",
        )


@check("temp-network", "failure")
def temp_network(machine: Machine) -> Iterator[Fault]:
    """Ray's temporary folder is on a network file system.

    Unix sockets and Ray's logs do not work, or work slowly, on NFS, Lustre, GPFS and the like. Ray needs a local disk.
    """
    mount = machine.mount(machine.ray_temp_dir)
    if machine.address is None and mount is not None and mount.is_network:
        yield Fault(
            "Ray's temporary folder is on a network file system",
            f"{machine.ray_temp_dir} is on {mount.kind}, mounted at {mount.point}",
            f"export RAY_TMPDIR=/tmp/r{machine.user_id}",
        )


@check("temp-owner", "failure")
def temp_owner(machine: Machine) -> Iterator[Fault]:
    """Ray's temporary folder cannot be written by this user.

    /tmp/ray belongs to the user who started Ray on this machine first. Another user needs another folder.
    """
    folder = nearest_existing(machine.ray_temp_dir)
    status = folder.stat()
    mine = status.st_uid == machine.user_id and status.st_mode & 0o200
    may_write = machine.user_id == 0 or mine or status.st_mode & 0o002 or (status.st_mode & 0o020 and _in_group(folder))
    if machine.address is None and not (may_write and folder.is_dir()):
        yield Fault(
            "Ray's temporary folder cannot be written by this user",
            f"{folder} belongs to user {status.st_uid}, with mode {status.st_mode & 0o7777:04o}"
            if folder.is_dir()
            else f"{folder} is a file",
            f"export RAY_TMPDIR=/tmp/r{machine.user_id}",
        )


@check("temp-space", "failure")
def temp_space(machine: Machine) -> Iterator[Fault]:
    """The disk of the temporary folder is full.

    Ray refuses new objects on a disk that is more than 95 % full, and needs room for its logs.
    """
    for folder in dict.fromkeys((machine.ray_temp_dir, machine.temp_dir)):
        usage = machine.usage(folder)
        if usage is None or not usage.total_bytes:
            continue
        used = 1 - usage.free_bytes / usage.total_bytes
        if used > RAY_MAX_USED or usage.free_bytes < MIN_TEMP_BYTES:
            yield Fault(
                "the disk of the temporary folder is full",
                f"{folder}: {percent(used)} used, {size(usage.free_bytes)} free",
                f"du -xsh {folder}/* | sort -h | tail",
                "failure" if used > RAY_MAX_USED else "warning",
            )
            return


@check("temp-noexec", "warning")
def temp_noexec(machine: Machine) -> Iterator[Fault]:
    """Programs in the temporary folder cannot be executed.

    Compiled kernels (Triton, extensions of torch) are written to the temporary folder and loaded from there, which a
    disk that is mounted with noexec refuses.
    """
    usage = machine.usage(machine.temp_dir)
    if usage is not None and usage.is_noexec:
        yield Fault(
            "the temporary folder is mounted with noexec",
            f"{machine.temp_dir}",
            'mkdir -p "$HOME/tmp" && export TMPDIR="$HOME/tmp" RAY_TMPDIR=/tmp',
        )


@check("cache-folder", "warning")
def cache_folder(machine: Machine) -> Iterator[Fault]:
    """The cache folder cannot be written.

    moe_ray keeps hashes of checkpoints there (MOE_RAY_CACHE, else ~/.cache/moe_ray). Without them every command reads
    all weights again.
    """
    configured = machine.variable("MOE_RAY_CACHE")
    folder = Path(configured).expanduser() if configured else machine.home / ".cache/moe_ray"
    place = nearest_existing(folder)
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        yield Fault(
            "the cache folder cannot be written, so checkpoints are hashed by every command again",
            f"{folder}: {place} is {'read-only for this user' if place.is_dir() else 'a file'}",
            f"export MOE_RAY_CACHE=/tmp/moe-ray-cache-{machine.user_id}",
        )


def _in_group(folder: Path) -> bool:
    return folder.stat().st_gid in {os.getegid(), *os.getgroups()}
