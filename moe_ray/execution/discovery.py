"""Resolve the address of a Ray cluster. Ray's own `auto` may pick another user's cluster."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

from moe_ray.errors import ConfigError

AUTO = "auto"
WHERE = "runtime.address"
# Processes that every node of a cluster has, and the option that names the cluster's head.
NODE_PROCESSES = ("raylet", "gcs_server")
ADDRESS_OPTION = "--gcs-address="
PORT_OPTION = "--gcs_server_port="
HOST_OPTION = "--node-ip-address="


@dataclass(frozen=True, slots=True)
class FoundCluster:
    """A cluster with a process on this machine: its head's address, and that process's user."""

    address: str
    user: str
    is_own: bool

    def __str__(self) -> str:
        return self.address if self.is_own else f"{self.address} (of user {self.user})"


def wanted_address(configured: str | None, environment: Mapping[str, str]) -> str | None:
    """Return host:port of the cluster to join, None to start one for this run alone.

    The experiment's `runtime.address` comes before RAY_ADDRESS; without either nothing is joined. `auto` means
    RAY_ADDRESS where that names a cluster, else the only cluster with a process on this machine.

    Raises:
        ConfigError: `auto` names no cluster, several, or another user's; or this is a SLURM job, whose machine may be
            shared.
    """
    named = environment.get("RAY_ADDRESS", "").strip()
    address = configured or named or None
    if address == "local":
        return None
    if address != AUTO:
        return address
    if named not in ("", AUTO, "local"):
        return named
    return _only_cluster(sorted(set(found_clusters()), key=str), in_slurm="SLURM_JOB_ID" in environment)


def _only_cluster(found: list[FoundCluster], *, in_slurm: bool) -> str:
    shown = ", ".join(map(str, found)) or "none"
    if in_slurm:
        raise ConfigError(
            f"auto could join a Ray cluster of another job of this machine; found: {shown}",
            where=WHERE,
            remedy="inside SLURM, name this job's cluster: runtime.address=HOST:PORT or RAY_ADDRESS",
        )
    if not found:
        raise ConfigError(
            "auto finds no Ray cluster on this machine",
            where=WHERE,
            remedy="start one (ray start --head), name one as HOST:PORT, or leave address out to run on this machine",
        )
    if len({cluster.address for cluster in found}) > 1:
        raise ConfigError(
            f"auto could mean several Ray clusters: {shown}", where=WHERE, remedy="write the address that is meant"
        )
    if not all(cluster.is_own for cluster in found):
        raise ConfigError(
            f"the Ray cluster that auto finds is another user's: {shown}",
            where=WHERE,
            remedy="start your own (ray start --head), or write the address if you may use that one",
        )
    return found[0].address


def found_clusters() -> Iterator[FoundCluster]:
    """Yield the clusters of the Ray processes of this machine that this user may look at."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() in NODE_PROCESSES and process.status() != psutil.STATUS_ZOMBIE:
                address = _head(process.cmdline())
                if address is not None:
                    user, own = process.uids().effective, os.geteuid()
                    yield FoundCluster(address, _user_name(process, user), user == own)


def _user_name(process: psutil.Process, user: int) -> str:
    try:
        return process.username()
    except (psutil.Error, KeyError):
        return str(user)


def _head(command: list[str]) -> str | None:
    """Return host:port of the head in the command line of a Ray process."""
    options = [option for part in command for option in part.split()]
    given = {name: option.removeprefix(name) for option in options for name in (
        ADDRESS_OPTION, PORT_OPTION, HOST_OPTION
    ) if option.startswith(name)}  # fmt: skip
    if given.get(ADDRESS_OPTION):
        return given[ADDRESS_OPTION]
    host, port = given.get(HOST_OPTION), given.get(PORT_OPTION)
    return f"{host}:{port}" if host and port and port != "0" else None
