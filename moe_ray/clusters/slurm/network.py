"""The addresses and the ports of a node's Ray."""

import errno
import os
import socket
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from moe_ray.clusters.slurm.life import NodeFailedError

# Below the ports that the kernel gives to outgoing connections, and above Ray's own 10002 to 19999.
FIRST_PORT = 20_000
DEFAULT_FIRST_EPHEMERAL_PORT = 32_768
# Ports are claimed in units, so that the claims of jobs of different sizes exclude each other.
UNIT = 64
NUM_FIXED_PORTS = 10


class RayPorts(NamedTuple):
    """One port for each server of a node's Ray, and a range for its workers."""

    gcs: int
    node_manager: int
    object_manager: int
    client_server: int
    dashboard: int
    dashboard_agent: int
    dashboard_agent_grpc: int
    runtime_env_agent: int
    metrics: int
    first_worker: int
    last_worker: int


class PortClaim:
    """Ports of this machine that no other job of moe_ray takes while this process lives.

    A claim is a name among the kernel's abstract sockets: it belongs to the network namespace, as ports do, and falls
    with its process.
    """

    def __init__(self, ports: RayPorts, claims: Sequence[socket.socket]) -> None:
        self.ports = ports
        self._claims = claims

    def release(self) -> None:
        """Let other jobs take the ports."""
        for claim in self._claims:
            claim.close()


def claim_ports(host: str, num_workers: int, seed: str) -> PortClaim:
    """Return ports that nothing listens on at `host`. Raises `NodeFailedError` when there are none."""
    num_units = -(-(NUM_FIXED_PORTS + num_workers) // UNIT)
    last = first_ephemeral_port()
    starts = range(FIRST_PORT, last - num_units * UNIT, UNIT)
    offset = zlib.crc32(seed.encode()) % max(1, len(starts))
    for start in (*starts[offset:], *starts[:offset]):
        claims = _claim_units(start, num_units)
        if claims and all(_is_free(host, port) for port in range(start, start + num_units * UNIT)):
            return PortClaim(ports_from(start, start + num_units * UNIT - 1), claims)
        for claim in claims:
            claim.close()
    raise NodeFailedError(f"no {num_units * UNIT} free ports in a row between {FIRST_PORT} and {last}")


def ports_from(first: int, last: int) -> RayPorts:
    """Return the ports of a node's Ray within a range: the fixed ones first, and the workers' after them."""
    servers = range(first, first + len(RayPorts._fields) - 2)
    return RayPorts._make([*servers, first + NUM_FIXED_PORTS, last])


def first_ephemeral_port() -> int:
    """Return the first port that the kernel may give to an outgoing connection."""
    with suppress(OSError, ValueError, IndexError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
        if first > FIRST_PORT + 1000:
            return first
    return DEFAULT_FIRST_EPHEMERAL_PORT


def _claim_units(start: int, num_units: int) -> list[socket.socket]:
    claims: list[socket.socket] = []
    for unit in range(start, start + num_units * UNIT, UNIT):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        claims.append(claim)
        try:
            claim.bind(f"\0moe_ray-ports-{unit}")
        except OSError:
            for one in claims:
                one.close()
            return []
    return claims


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for place in dict.fromkeys((host, "127.0.0.1" if family == socket.AF_INET else "::1")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((place, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
    return True


def addresses(interface: str | None) -> list[str]:
    """Return this node's IPv4 addresses, those of `interface` first, or alone where it is named.

    Raises `NodeFailedError` where `interface` is missing or has no address.
    """
    found = {name: _ipv4(entries) for name, entries in psutil.net_if_addrs().items()}
    if interface is not None:
        if not found.get(interface):
            known = ", ".join(name for name, entries in found.items() if entries)
            raise NodeFailedError(
                f"network interface {interface!r} has no IPv4 address\n"
                f"  remedy: correct `interface` in the site file; this node has {known}"
            )
        return found[interface]
    return [address for entries in found.values() for address in entries if not address.startswith("127.")]


def _ipv4(entries: Sequence[object]) -> list[str]:
    return [str(getattr(entry, "address", "")) for entry in entries if getattr(entry, "family", 0) == socket.AF_INET]


def route_source(target: str) -> str | None:
    """Return the address of this node from which packets to `target` leave; None without a route or a name."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        source = str(probe.getsockname()[0])
        return None if source.startswith("127.") else source
    return None


def head_address(candidates: Sequence[str], peers: Sequence[str]) -> str:
    """Return the address under which the other nodes reach this one: the source of the route to one of them.

    `candidates` are this node's addresses, `peers` the names or addresses of the others.
    """
    sources = (route_source(peer) for peer in peers)
    routed = next((source for source in sources if source is not None and source in candidates), None)
    if routed is not None:
        return routed
    own = (route_source(name) for name in _own_names())
    fallback = candidates[0] if candidates else "127.0.0.1"
    return next((source for source in own if source is not None and source in candidates), fallback)


def _own_names() -> Iterator[str]:
    if "SLURMD_NODENAME" in os.environ:
        yield os.environ["SLURMD_NODENAME"]
    yield socket.gethostname()


def reaches(host: str, port: int, timeout_s: float = 3.0) -> bool:
    """True if something accepts connections at host:port."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True
