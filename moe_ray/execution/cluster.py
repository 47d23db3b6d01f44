"""The Ray cluster that a run works on: one that is there, or one started here for this run alone."""

import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import CapacityError, UserError
from moe_ray.execution.node_agent import NodeAgent, NodeHardware
from moe_ray.planning.fleet import Fleet, Node, cpu_slots

AGENT_TIMEOUT_S = 60.0
AGENT_THREADS = 16
# Unix sockets' paths end at 107 bytes; Ray needs about 60 of them for its own names.
MAX_TEMP_DIR_CHARACTERS = 45


def actor_class(kind: type, **options: Any) -> Any:
    """Return `kind` as a Ray actor class. Ray's own annotations do not cover options that are built at run time."""
    remote: Any = ray.remote
    return remote(**options)(kind)


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


class Cluster:
    """The nodes that are alive, each with its agent."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._runtime = runtime
        self._agents: dict[str, Any] = {}
        self.hardware: dict[str, NodeHardware] = {}
        self._num_gpus_left = float("inf") if runtime.gpus == "auto" else float(runtime.gpus)

    def agent(self, node: str) -> Any:
        """Return the agent of a node, None when the node is gone."""
        return self._agents.get(node)

    def alive(self) -> set[str]:
        """Ids of the nodes that Ray holds for alive."""
        return {node["NodeID"] for node in _nodes() if node["Alive"]}

    def discover(self, known: Mapping[str, Node]) -> list[Node]:
        """Start agents on the nodes that are alive and not `known`, and return what those nodes offer."""
        fresh = [node for node in _nodes() if node["Alive"] and node["NodeID"] not in known]
        agent_class = actor_class(NodeAgent, num_cpus=0, max_concurrency=AGENT_THREADS)
        for node in fresh:
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            self._agents[node["NodeID"]] = agent_class.options(scheduling_strategy=affinity).remote()
        calls = {node["NodeID"]: self._agents[node["NodeID"]].hardware.remote() for node in fresh}
        nodes = []
        for entry in fresh:
            hardware: NodeHardware = ray.get(calls[entry["NodeID"]], timeout=AGENT_TIMEOUT_S)
            self.hardware[entry["NodeID"]] = hardware
            nodes.append(self._node(entry, hardware))
        return nodes

    def forget(self, node: str) -> None:
        """Drop the agent of a node that is gone."""
        self._agents.pop(node, None)

    def _node(self, entry: Mapping[str, Any], hardware: NodeHardware) -> Node:
        resources = entry["Resources"]
        num_cpus = int(resources.get("CPU", 0))
        num_gpus = int(min(resources.get("GPU", 0), self._num_gpus_left))
        self._num_gpus_left -= num_gpus
        gpu_bytes = tuple(hardware.gpu_bytes[i] if i < len(hardware.gpu_bytes) else None for i in range(num_gpus))
        return Node(
            id=entry["NodeID"],
            name=entry["NodeManagerAddress"],
            num_cpus=num_cpus,
            cpu_slots=cpu_slots(self._runtime, num_cpus),
            gpu_bytes=gpu_bytes,
        )


@contextmanager
def connect(runtime: RuntimeConfig) -> Iterator[Cluster]:
    """Join the Ray cluster at `runtime.address`, or start one on this machine, and leave it at the end.

    Inside a Ray job RAY_ADDRESS names the cluster, and an absent address means that one. A process that is connected
    already (a test, a notebook) lends its connection and keeps it.
    """
    borrowed = ray.is_initialized()
    if not borrowed:
        _initialise(runtime)
    try:
        yield Cluster(runtime)
    finally:
        if not borrowed:
            ray.shutdown()


def _initialise(runtime: RuntimeConfig) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = runtime.address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    if address and address != "local":
        try:
            ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot join a Ray cluster at {address!r}: {str(error).splitlines()[0]}",
                where="runtime.address",
                remedy="start one (ray start --head), check host and port and, with token authentication, "
                "RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH; or leave address out to run on this machine",
            ) from error
        return
    temp_dir = _temp_dir(runtime.temp_dir)
    ray.init(address="local", include_dashboard=False, _temp_dir=temp_dir, **common)


def _temp_dir(configured: Path | None) -> str | None:
    if configured is None:
        return None
    path = str(configured.expanduser().resolve())
    if len(path) > MAX_TEMP_DIR_CHARACTERS:
        raise UserError(
            f"{path} is {len(path)} characters long; Ray's sockets below it allow {MAX_TEMP_DIR_CHARACTERS}",
            where="runtime.temp_dir",
            remedy=f"choose a shorter folder, such as {tempfile.gettempdir()}/ray-me",
        )
    return path


def fleet_of(cluster: Cluster) -> Fleet:
    """Return the fleet of all nodes that are alive now; raises `CapacityError` when there is no slot at all."""
    fleet = Fleet(tuple(cluster.discover({})))
    if not any(node.cpu_slots or node.gpu_bytes for node in fleet.nodes.values()):
        raise CapacityError(
            "the cluster has neither CPUs nor GPUs to run on",
            where=platform.node(),
            remedy="start its nodes with --num-cpus or --num-gpus above 0",
        )
    return fleet
