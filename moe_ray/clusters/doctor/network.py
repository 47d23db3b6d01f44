"""Checks of names, proxies and ports. No check sends anything to another machine than the experiment's own."""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.config.schema import ExperimentConfig
from moe_ray.serving.ports import port_to_listen_on

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOCAL_NAMES = ("localhost", "127.0.0.1")
NUM_NAMES_AT_ONCE = 16
NUM_SHOWN = 4
CONNECT_SHARE = 0.4


@check("host-name", "warning")
def host_name(machine: Machine) -> Iterator[Fault]:
    """This node's name leads to the node itself only.

    Debian maps the hostname to 127.0.1.1 in /etc/hosts. A Ray that takes its address from the name then tells other
    nodes to connect to themselves. Checked inside a SLURM job of several nodes.
    """
    if machine.num_slurm_nodes < 2:
        return
    try:
        found = machine.addresses_of(machine.host)
    except OSError as error:
        yield Fault(
            "this node's name has no address", f"{machine.host}: {error.strerror or error}", "getent hosts $(hostname)"
        )
        return
    if all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        yield Fault(
            "this node's name leads to a loopback address, which other nodes cannot reach",
            f"{machine.host} is {', '.join(found)}",
            "ray start --head --node-ip-address=$(hostname -I | cut -d' ' -f1)",
        )


@check("node-names", "failure")
def node_names(machine: Machine) -> Iterator[Fault]:
    """The names of a job's nodes have no address here.

    The nodes of a Ray cluster connect to each other. Checked inside a SLURM job of several nodes.
    """
    nodes = machine.variable("SLURM_JOB_NODELIST")
    if machine.num_slurm_nodes < 2 or not nodes:
        return
    shown = machine.run("scontrol", "show", "hostnames", nodes)
    names = shown.text.split() if shown is not None and shown.code == 0 else []
    with ThreadPoolExecutor(NUM_NAMES_AT_ONCE) as pool:
        unknown = [name for name in pool.map(lambda name: _unknown(machine, name), names) if name]
    if unknown:
        more = f" and {len(unknown) - NUM_SHOWN} more" if len(unknown) > NUM_SHOWN else ""
        yield Fault(
            f"the names of {len(unknown)} of the job's nodes have no address",
            ", ".join(unknown[:NUM_SHOWN]) + more,
            f"getent hosts {unknown[0]}",
        )


@check("proxy", "warning")
def proxy(machine: Machine) -> Iterator[Fault]:
    """A proxy would get requests to this machine and to the cluster.

    HTTP clients (Ray's job submission, endpoints of models) obey http_proxy. Names that no_proxy does not list go to
    the proxy, which cannot reach a compute node. Ray's own connections ignore the proxy.
    """
    names = [name for name in PROXY_VARIABLES if machine.variable(name)]
    exempt = [
        part.strip().lower() for part in (machine.variable("no_proxy") or machine.variable("NO_PROXY")).split(",")
    ]
    config = machine.experiment.config if machine.experiment is not None else None
    wanted = [*LOCAL_NAMES, *_inner_hosts(machine.address, config)]
    missing = [host for host in dict.fromkeys(wanted) if not _is_exempt(host, exempt)]
    if names and missing:
        both = ",".join([*(part for part in exempt if part), *missing])
        yield Fault(
            f"requests to {', '.join(missing)} would go to the proxy",
            f"{', '.join(names)} is set, and no_proxy does not list them",
            f"export no_proxy={both} NO_PROXY={both}",
        )


@check("endpoints", "failure")
def endpoints(machine: Machine) -> Iterator[Fault]:
    """Nothing answers where a model's API should be.

    Tried is a connection to each `base_url` on this machine or inside the cluster, one after the other; others are left
    alone. Not checked where a proxy is set.
    """
    config = machine.experiment.config if machine.experiment is not None else None
    if any(machine.variable(name) for name in PROXY_VARIABLES):
        return
    for url in dict.fromkeys(_inner_urls(config)):
        parts = urlsplit(url)
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        try:
            socket.create_connection(address, timeout=CONNECT_SHARE * machine.limit_s).close()
        except OSError as error:
            shown = f"{error.strerror or error}"
            yield Fault(f"nothing answers at {url}, an engine's base_url", shown, f"curl -i {url}/models")


@check("serving-port", "warning")
def serving_port(machine: Machine) -> Iterator[Fault]:
    """The port that the experiment is served at is taken.

    Checked where the file names `serving.port`.
    """
    if machine.experiment is None or "serving.port" not in machine.experiment.places:
        return
    serving = machine.experiment.config.serving
    try:
        port_to_listen_on(serving.host, serving.port)
    except OSError as error:
        yield Fault(
            f"port {serving.port} of {serving.host} cannot be listened on",
            error.strerror or str(error),
            "moe-ray serve FILE --port 0",
        )


def _unknown(machine: Machine, name: str) -> str:
    """Return `name` when it has no address."""
    try:
        machine.addresses_of(name)
    except OSError:
        return name
    return ""


def _inner_hosts(address: str | None, config: ExperimentConfig | None) -> Iterator[str]:
    """Yield the hosts inside the cluster that HTTP requests go to."""
    if address is not None and ":" in address:
        host = urlsplit(f"//{address}").hostname or ""
        yield from [host] if _is_inside(host) else []
    for url in _inner_urls(config):
        yield urlsplit(url).hostname or ""


def _inner_urls(config: ExperimentConfig | None) -> Iterator[str]:
    """Yield the addresses of APIs on this machine or inside the cluster."""
    models = config.models.values() if config is not None else ()
    for url in (str(model.engine_settings.get("base_url", "")) for model in models):
        if _is_inside(urlsplit(url).hostname or ""):
            yield url


def _is_inside(host: str) -> bool:
    return bool(host) and (_is_private(host) or "." not in host)


def _is_private(host: str) -> bool:
    """True for private and loopback addresses."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _is_exempt(host: str, exempt: Sequence[str]) -> bool:
    return any(part == "*" or (part and (host == part or host.endswith(f".{part.lstrip('.')}"))) for part in exempt)
